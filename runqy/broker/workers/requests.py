"""Ask workers to drain, to restart or replace their children, or to stop. They read this with their heartbeats."""

from collections.abc import Mapping, Sequence
from enum import StrEnum

from runqy.broker import keys
from runqy.broker.replies import Reply
from runqy.broker.request import Request
from runqy.broker.scripts import command, script

REQUEST_TTL_S = 86_400
"""How long a request waits for a worker that cannot reach Redis."""


class WorkerAction(StrEnum):
    """What a worker can be asked to do."""

    DRAIN = "drain"
    """Dequeue no more tasks, and exit once those that run have ended."""
    RESTART = "restart"
    """Replace the children, each between two tasks."""
    STOP = "stop"
    """Stop as on SIGTERM."""
    TAKE_TURN = "take_turn"
    """Replace the children by others with the changed environment: it is the worker's turn. Of maintenance only."""


def request_action(worker_id: str, action: WorkerAction, *, request_id: str) -> Request[None]:
    """Ask a worker for an action. A worker carries out a request id once."""
    call = script("request_worker")(
        requests=keys.worker_requests(worker_id),
        action=action.value,
        request_id=request_id,
        ttl_s=REQUEST_TTL_S,
        channel=keys.CHANGED_CHANNEL,
        worker_id=worker_id,
    )
    return Request((call,), lambda _: None, is_repeatable=True)


def read_requests(worker_id: str) -> Request[Mapping[WorkerAction, str]]:
    """Return the ids of the newest requests to a worker."""
    key = keys.worker_requests(worker_id)

    def parse(replies: Sequence[Reply]) -> Mapping[WorkerAction, str]:
        pairs = zip(WorkerAction, replies[0], strict=True)
        return {action: found.decode("utf-8", "replace") for action, found in pairs if found}

    return Request((command("HMGET", key, *WorkerAction, key=key),), parse)
