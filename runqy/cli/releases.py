"""The commands `runqy queue redeploy`, `releases`, `rollback` and `push-secret`."""

import time
from typing import Annotated, Any

import typer

from runqy.cli.commands import Session
from runqy.cli.errors import CliError, ExitCode, ServerError
from runqy.cli.output import Listing
from runqy.cli.queues import WholeQueue, queue_path
from runqy.cli.values import clean, parse_duration

REDEPLOY_EXAMPLES = "runqy queue redeploy mail\nrunqy queue redeploy mail --commit v1.4 --wait 10m"
RELEASES_EXAMPLES = "runqy queue releases mail\nrunqy queue releases mail -o wide"
ROLLBACK_EXAMPLES = "runqy queue rollback mail"
HOOK_EXAMPLES = "runqy queue push-secret mail\nrunqy queue push-secret mail --rotate"
_SHORT = 12
_CODE = ("commit", "git_url", "branch", "code_path", "startup_cmd", "requirements_file")
"""What makes a release another than the live one."""
_POLL_S = 1.0
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
    wait: Annotated[
        float,
        typer.Option(
            "--wait",
            "-w",
            metavar="DURATION",
            parser=parse_duration,
            help="How long to wait until it is live: seconds, or a duration such as 5m.",
        ),
    ] = 0,
) -> None:
    """Release the newest commit, or the given one.

    The first worker changes to it between two tasks, and the others once it has proved itself there. Whether the commit
    exists, and starts, is known only then: with --wait the command exits with 1 if it is not live in the end, and with
    8 if that is not known in time.
    """
    response = session.api.post(f"{queue_path(queue)}/redeploy", {"commit": commit} if commit else None)
    if wait:
        _await_live(session, response["queue"], response["release"], wait)
    else:
        _print_request(session, response, commit or "the newest commit")


def roll_back(session: Session, queue: WholeQueue) -> None:
    """Release what was live before.

    All workers stop the newer code at once, and tasks wait until the code before is loaded. To go back without a pause,
    redeploy its commit. While a release is rolling out, this stops it and keeps the live one.
    """
    response = session.api.post(f"{queue_path(queue)}/rollback")
    _print_request(session, response, "which goes back to the one before")


def list_releases(session: Session, queue: WholeQueue) -> None:
    """List the releases of a queue, the newest first.

    If the newest one was reverted, what it printed last and its most frequent error follow.
    """
    releases = session.api.get(f"{queue_path(queue)}/releases")["releases"]
    session.out.listing(_RELEASES, releases)
    if releases and not (session.out.is_document or session.out.is_name):
        _note_failure(session, releases[0])


def show_push_secret(
    session: Session,
    queue: WholeQueue,
    *,
    rotate: Annotated[bool, typer.Option("--rotate", help="Make a new one; for 24 hours both are valid.")] = False,
) -> None:
    """Print the secret for the webhook of the queue's git host. It is shown once.

    The queue has `release: push`. The URL of the webhook is that of the server with /hooks/git/QUEUE.
    """
    found = session.api.post(f"{queue_path(queue)}/git-hook-secret{'/rotate' if rotate else ''}")
    session.out.result(found, found["secret"])


def _print_request(session: Session, response: dict[str, Any], what: str) -> None:
    """Print that a release was requested. Only a worker finds out whether it can run it."""
    queue, number = response["queue"], response["release"]
    match response["workers"]:
        case None:
            workers = "its workers"
        case []:
            workers = "the next worker that starts, as none serves the queue"
        case [_]:
            workers = "1 worker"
        case found:
            workers = f"{len(found)} workers"
    text = f"{queue}: requested release {number}, {what}, for {workers}; `runqy queue releases {queue}` shows its state"
    session.out.result(response, text, name=str(number))


def _await_live(session: Session, queue: str, number: int, wait_s: float) -> None:
    """Wait until a release is live, or its commit is. Raise CliError if it is not."""
    release, is_live = _await_end(session, queue, number, wait_s)
    commit, state = release["commit"] or release["branch"], release["state"].replace("_", " ")
    if is_live:
        session.out.result(release, f"{queue}: release {number}, {commit[:_SHORT]}, is live", name=str(number))
        return
    if release["state"] == "rolling_out":
        waits = f": it {clean(release['reason'])}" if release["reason"] else ""
        raise CliError(f"{queue}: release {number} is still rolling out{waits}.", ExitCode.TIMED_OUT)
    _note_failure(session, release)
    raise CliError(f"{queue}: release {number} is not live but {state}: {clean(release['reason'])}")


def _await_end(session: Session, queue: str, number: int, wait_s: float) -> tuple[dict[str, Any], bool]:
    """Return a release once it has been rolled out, or after `wait_s`, and whether its commit is live."""
    deadline = time.monotonic() + wait_s
    while True:
        is_late = time.monotonic() >= deadline
        try:
            releases = session.api.get(f"{queue_path(queue)}/releases")["releases"]
        except ServerError as error:
            if is_late or not error.is_temporary:
                raise
        else:
            release = next((each for each in releases if each["number"] == number), None)
            if release is None:
                raise CliError(f"{queue}: release {number} is gone, with the queue or for newer ones.")
            if is_late or release["state"] != "rolling_out":
                return release, _is_live(release, releases)
        time.sleep(_POLL_S)


def _is_live(release: dict[str, Any], releases: list[dict[str, Any]]) -> bool:
    """Return whether a release is live, or has turned out to be of what is live."""
    if release["state"] != "superseded":
        return bool(release["state"] == "live")
    live = next((each for each in releases if each["state"] == "live"), None)
    return live is not None and all(release[member] == live[member] for member in _CODE)


def _note_failure(session: Session, release: dict[str, Any]) -> None:
    """Print what a release that was reverted printed last, and the most frequent error of its runs."""
    if output := release.get("output"):
        session.out.note(f"Release {release['number']} printed last:\n{clean(output)}")
    if error := release.get("most_frequent_error"):
        text = ": ".join(filter(None, (error["error_class"], error["error_message"])))
        count = f"{error['count']:,} time{'' if error['count'] == 1 else 's'}"
        example = f"the task {error['task_id']} in {error['redis_queue']}"
        session.out.note(
            clean(f"Most frequent error of release {release['number']}, {count}, such as of {example}: {text}")
        )
