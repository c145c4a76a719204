"""The commands `runqy queue redeploy`, `releases`, `rollback` and `push-secret`."""

from typing import Annotated, Any

import msgspec
import typer

from runqy.cli.commands import Session
from runqy.cli.output import Listing
from runqy.cli.queues import WholeQueue, queue_path
from runqy.cli.values import clean

REDEPLOY_EXAMPLES = "runqy queue redeploy mail\nrunqy queue redeploy mail --commit v1.4"
RELEASES_EXAMPLES = "runqy queue releases mail\nrunqy queue releases mail -o wide"
ROLLBACK_EXAMPLES = "runqy queue rollback mail"
HOOK_EXAMPLES = "runqy queue push-secret mail\nrunqy queue push-secret mail --rotate"
_SHORT = 12
_RELEASES = Listing(
    columns=("number", "state", "commit", "subject", "source", "actor", "created_at", "reason"),
    wide=("author", "live_at", "ended_at", "startup_cmd", "workers"),
    empty="There is no release yet: the first commit that a worker runs becomes one.",
    # Without a commit, because a worker has not fetched it, its branch or tag.
    add_columns=lambda release: {"commit": (release["commit"] or "")[:_SHORT] or release["branch"]},
)


def redeploy(
    session: Session,
    queue: WholeQueue,
    *,
    commit: Annotated[str, typer.Option("--commit", metavar="COMMIT", help="A whole commit, or a tag.")] = "",
) -> None:
    """Release the newest commit, or the given one.

    The first worker changes to it between two tasks, and the others once it has proved itself there.
    """
    body = msgspec.json.encode({"commit": commit}) if commit else b""
    response = session.api.post(f"{queue_path(queue)}/redeploy", body)
    shown = f"; `runqy queue releases {response['queue']}` shows whether it can be fetched" if commit else ""
    _print_release(session, response, commit or "the newest commit", shown)


def roll_back(session: Session, queue: WholeQueue) -> None:
    """Release what was live before.

    While a release is rolling out, this stops it and keeps the live one.
    """
    response = session.api.post(f"{queue_path(queue)}/rollback", b"")
    _print_release(session, response, "which goes back to the one before")


def list_releases(session: Session, queue: WholeQueue) -> None:
    """List the releases of a queue, the newest first.

    If the newest one did not start, what it printed last follows.
    """
    releases = session.api.get(f"{queue_path(queue)}/releases")["releases"]
    session.out.listing(_RELEASES, releases)
    if releases and (output := releases[0].get("output")) and not (session.out.is_document or session.out.is_name):
        session.out.note(f"Release {releases[0]['number']} printed last:\n{clean(output)}")


def show_push_secret(
    session: Session,
    queue: WholeQueue,
    *,
    rotate: Annotated[bool, typer.Option("--rotate", help="Make a new one; for 24 hours both are valid.")] = False,
) -> None:
    """Print the secret for the webhook of the queue's git host. It is shown once.

    The queue has `release: push`. The URL of the webhook is that of the server with /hooks/git/QUEUE.
    """
    found = session.api.post(f"{queue_path(queue)}/git-hook-secret{'/rotate' if rotate else ''}", b"")
    session.out.result(found, found["secret"])


def _print_release(session: Session, response: dict[str, Any], what: str, more: str = "") -> None:
    number = response["release"]
    match response["workers"]:
        case None:
            who = "being rolled out to its workers"
        case []:
            who = "run by the next worker that starts: none serves the queue"
        case [_]:
            who = "being rolled out to 1 worker"
        case workers:
            who = f"being rolled out to {len(workers)} workers"
    session.out.result(response, f"{response['queue']}: release {number}, {what}, is {who}{more}", name=str(number))
