"""The round trip to Redis that records results of runs and dequeues new tasks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from runqy.broker.constants import LEASE_S
from runqy.broker.message import TRACEPARENT
from runqy.broker.operation import Operation, Request, ask_all
from runqy.broker.tasks.archive_reasons import DEADLINE_EXCEEDED
from runqy.broker.tasks.dequeue import DequeueRequest, dequeue_tasks, plan_dequeue
from runqy.broker.tasks.lease import LeasedTask
from runqy.broker.tasks.queue_order import QueueWeight
from runqy.errors import PayloadUnusable, RunqyError
from runqy.telemetry.tracing import RunSpan, get_tracer
from workers.runtime.protocol import encode_task
from workers.runtime.task_runs import RetryPolicy, RunResult, RunStatus

TASKS_PER_DEQUEUE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumeConfig:
    """How tasks are dequeued and finished, by settings and registration."""

    worker_id: str
    wake_token: str
    concurrency: int
    weights: tuple[QueueWeight, ...]
    is_strict: bool
    policy: RetryPolicy
    lease_s: int = LEASE_S
    ttl_completed_s: int = 0
    active_timeout_s: int = 0
    keeps_output: bool = False
    """Store what tasks print. Only a server that deletes the output with its task requests this."""

    @property
    def queues(self) -> list[str]:
        return [weight.queue for weight in self.weights]

    def dequeue_request(self, free: int) -> DequeueRequest:
        """Request as many tasks as there are free slots, up to TASKS_PER_DEQUEUE."""
        request = plan_dequeue(
            self.weights,
            min(free, TASKS_PER_DEQUEUE),
            worker_id=self.worker_id,
            is_strict=self.is_strict,
            wake_token=self.wake_token,
        )
        return msgspec.structs.replace(
            request,
            lease_s=self.lease_s,
            ttl_completed_s=self.ttl_completed_s,
            active_timeout_s=self.active_timeout_s,
            has_more_slots=free > TASKS_PER_DEQUEUE,
        )


class RoundTripResult(msgspec.Struct, frozen=True):
    """The outcomes of the finishes in order, errors included, and the dequeued tasks or why there are none."""

    outcomes: Sequence[Any]
    tasks: Sequence[LeasedTask] | RunqyError


def finish_and_dequeue(
    finishes: Sequence[Request[Any]], dequeue: DequeueRequest | None, *, now_ns: int
) -> Operation[RoundTripResult]:
    """Run finishes and a dequeue, if there is one, in one round trip.

    Raise BrokerUnavailable. Redis may have run any part of it nevertheless.
    """
    if dequeue is None:
        return RoundTripResult((yield from ask_all(finishes)), ())
    tasks, outcomes = yield from dequeue_tasks(dequeue, now_ns=now_ns, extra_requests=finishes)
    return RoundTripResult(outcomes, tasks)


def encode_leased_task(task: LeasedTask, *, traceparent: str, now_s: int) -> tuple[bytes, RunResult | None]:
    """Return the line that sends a task to a child. If the task cannot run, return its result too."""
    if not task.is_readable:
        return b"", RunResult(RunStatus.FAILED, "message_unreadable: the stored message is damaged")
    if 0 < task.message.deadline <= now_s:
        return b"", RunResult(RunStatus.EXPIRED, DEADLINE_EXCEEDED)
    try:
        return encode_task(task.message, traceparent=traceparent), None
    except PayloadUnusable as error:
        return b"", RunResult(RunStatus.FAILED, f"payload_unusable: {error.detail}")


def start_run_span(task: LeasedTask, *, now_ns: int) -> RunSpan | None:
    """Record how long a task waited, and start the span of its run. Return None if tracing is off."""
    tracer = get_tracer()
    if tracer is None:
        return None
    return tracer.start_run(
        task.lease.task_id,
        task.lease.queue,
        task.message.headers.get(TRACEPARENT, ""),
        pending_since_ns=task.pending_since_ns,
        now_ns=now_ns,
    )
