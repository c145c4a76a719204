"""The round trip to Redis that records how runs ended and dequeues new tasks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import structlog

from runqy.broker.dequeue import DequeueRequest, QueueWeight, dequeue_tasks, plan_dequeue
from runqy.broker.lease import LeasedTask
from runqy.broker.operation import Operation, Request, ask_all
from runqy.broker.timing import LEASE_S
from runqy.errors import BrokerCommandRefused, PayloadUnusable
from workers.runtime.pool import DEADLINE_EXCEEDED
from workers.runtime.protocol import encode_task
from workers.runtime.runs import RetryPolicy

TASKS_PER_DEQUEUE = 100

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumeConfig:
    """How tasks are dequeued and finished, as the settings and the registration say."""

    worker_id: str
    wake_token: str
    concurrency: int
    """How many tasks may be held at a time."""
    weights: tuple[QueueWeight, ...]
    is_strict: bool
    policy: RetryPolicy
    lease_s: int = LEASE_S

    def dequeue_request(self, free: int) -> DequeueRequest:
        """Ask for as many tasks as there are free slots, up to what one request carries."""
        request = plan_dequeue(
            self.weights,
            min(free, TASKS_PER_DEQUEUE),
            worker_id=self.worker_id,
            is_strict=self.is_strict,
            wake_token=self.wake_token,
        )
        return msgspec.structs.replace(request, lease_s=self.lease_s, has_more_slots=free > TASKS_PER_DEQUEUE)


class Replies(msgspec.Struct, frozen=True):
    """The outcomes of the finishes in their order, or RunqyErrors in their places, and the tasks that were dequeued."""

    outcomes: Sequence[Any]
    taken: Sequence[LeasedTask]


def finish_and_dequeue(
    finishes: Sequence[Request[Any]], dequeue: DequeueRequest | None, *, now_ns: int
) -> Operation[Replies]:
    """Run finishes, and dequeue if that is asked for, in one round trip.

    Raises BrokerUnavailable: any of it may have run.
    """
    if dequeue is None:
        return Replies((yield from ask_all(finishes)), ())
    try:
        taken, outcomes = yield from dequeue_tasks(dequeue, now_ns=now_ns, together_with=finishes)
    except BrokerCommandRefused:
        if not finishes:
            raise
        log.exception("dequeue_refused")  # the finishes ran, but their outcomes were lost with the error
        outcomes = yield from ask_all(finishes)
        taken, _ = yield from dequeue_tasks(dequeue.repeated(), now_ns=now_ns)
    return Replies(outcomes, taken)


def encode_or_reject(taken: LeasedTask, *, now_s: int) -> tuple[bytes, str]:
    """Return the line that hands a task to a child, or the error for which it cannot run."""
    if not taken.is_readable:
        return b"", "message_unreadable: the stored message is damaged"
    if 0 < taken.message.deadline <= now_s:
        return b"", DEADLINE_EXCEEDED
    try:
        return encode_task(taken.message), ""
    except PayloadUnusable as error:
        return b"", f"payload_unusable: {error.detail}"
