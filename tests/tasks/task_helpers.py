"""Ends tasks as workers do."""

from typing import Any

from runqy.broker.broker import Broker
from runqy.broker.tasks.finish import Failure, archive, complete, retry
from runqy.broker.tasks.lease import LeasedTask
from tests.support.tasks import put, take_one


def succeed(broker: Broker, taken: LeasedTask, result: bytes) -> None:
    """Record the success of a task."""
    broker.run(complete(taken.lease, taken.message, result, now_ns=broker.now_ns()))


def fail_for_good(broker: Broker, taken: LeasedTask, error: str) -> None:
    """Give a task up."""
    broker.run(archive(taken.lease, taken.message, error=error, now_ns=broker.now_ns()))


def put_in(broker: Broker, state: str, *task_ids: str, queue: str = "simple", **options: Any) -> None:
    """Bring tasks into a state, one after the other."""
    for task_id in task_ids:
        starts_at_s = broker.now_s() + 60 if state == "scheduled" else None
        put(broker, task_id, queue=queue, process_at_s=starts_at_s, **options)
        if state not in ("pending", "scheduled"):
            _end(broker, take_one(broker, queue), state)


def _end(broker: Broker, taken: LeasedTask, state: str) -> None:
    """Let a task that runs come into a state; it may continue to run."""
    if state == "retry":
        failure = Failure(error="boom", retry_at_s=broker.now_s() + 60)
        broker.run(retry(taken.lease, taken.message, failure, now_ns=broker.now_ns()))
    if state == "archived":
        fail_for_good(broker, taken, "boom")
    if state == "completed":
        succeed(broker, taken, b"1")
