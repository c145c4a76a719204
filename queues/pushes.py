"""Release what is pushed to the repository of a queue that has `release: push`."""

from collections.abc import Collection
from dataclasses import dataclass

import structlog

from queues.definitions import ReleaseMode
from queues.models import Queue, Release, ReleaseSource, ReleaseState
from queues.releases import code_of, create_release, find_release, get_queue, release_changes
from queues.repository_check import find_tip
from runqy.audit.operations import record
from runqy.configuration.operations import configuration_change
from runqy.core.git.sources import repository_name

log = structlog.get_logger(__name__)

PUSHES_KEPT = 1000
"""Of each queue: a push that is older than these could be sent again."""
RECEIVED = "This push was received before. To release the newest commit again, redeploy the queue."


@dataclass(frozen=True, slots=True, kw_only=True)
class Push:
    """What a git host says about a push. It is authentic, but it may be old."""

    ref: str
    after: str
    """The newest commit, as of the push. Never what is released."""
    repositories: Collection[tuple[str, str]]
    """The repository by its URLs, as `repository_name` returns it."""
    digest: str
    """Of the event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PushResult:
    """What became of a push."""

    queue: str
    message: str
    release: int | None = None


def receive_push(push: Push, *, queue: str) -> PushResult:
    """Release the newest commit of the queue's branch, unless it runs already or the push is about another.

    A push that was received before does nothing: it must not undo a rollback. Raise QueueNotFound.
    """
    row = get_queue(queue)
    reason = _find_reason(row, push)
    if not reason and row.pushes.filter(digest=push.digest).exists():
        reason = RECEIVED
    result = PushResult(queue=row.name, message=reason) if reason else _release(row, push)
    log.info("push_received", queue=row.name, release=result.release, result=result.message)
    return result


def _release(seen: Queue, push: Push) -> PushResult:
    # Not in the transaction, which one change at a time has, and not for a commit that runs already.
    tip = "" if push.after == _find_newest_commit(seen) else find_tip(seen)
    with configuration_change() as change:
        row = get_queue(seen.name)
        _, is_first = row.pushes.get_or_create(digest=push.digest)
        row.pushes.filter(pk__in=list(row.pushes.values_list("pk", flat=True)[PUSHES_KEPT:])).delete()
        if not is_first:
            return PushResult(queue=row.name, message=RECEIVED)
        if _find_newest_commit(row) in (push.after, tip):
            return PushResult(queue=row.name, message="This commit is live, or is rolling out.")
        commit = tip if code_of(row) == code_of(seen) else ""
        live = find_release(row, ReleaseState.LIVE)
        release = create_release(change, row, code_of(row), commit=commit, source=ReleaseSource.PUSH)
        changes = {**release_changes(live, release), "source": (None, ReleaseSource.PUSH.value)}
        record(action="queue.redeployed", object_kind="queue", object_name=row.name, changes=changes)
    return PushResult(queue=row.name, message="release requested", release=release.number)


def _find_newest_commit(row: Queue) -> str | None:
    """Return the commit that is rolling out, or else that is live; None if there is none, or it is not known yet."""
    release: Release | None = find_release(row, ReleaseState.ROLLING_OUT) or find_release(row, ReleaseState.LIVE)
    return (release and release.commit) or None


def _find_reason(row: Queue, push: Push) -> str:
    """Return why a push does not concern a queue; empty if it does."""
    if row.release != ReleaseMode.PUSH:
        return "The queue is released by hand (deployment.release is manual)."
    if repository_name(row.git_url) not in push.repositories:
        return "The push is to another repository than the queue's git_url."
    if push.ref not in (f"refs/heads/{row.branch}", f"refs/tags/{row.branch}"):
        return f"The push is to another branch than the queue's: {row.branch}."
    # All digits are zero where the branch was deleted.
    return "" if push.after.strip("0") else "The branch was deleted."
