"""Helpers of maintenance tests: tasks in any state, a moving clock, and the indexes that contain an id."""

import pytest

import runqy.audit.operations
import webhooks.deliveries
from runqy import clock
from runqy.broker.asynq_pb2 import TaskMessage
from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.tasks import dequeue
from runqy.broker.tasks.dequeue import QueueWeight
from runqy.broker.tasks.enqueue import enqueue
from runqy.broker.tasks.lease import LeasedTask
from runqy.maintenance import retention
from runqy.maintenance.retention import RetentionRunner
from runqy.redis_connection import get_broker
from tests.support.redis_client import redis_of
from tests.support.tasks import new_task

QUEUE = "q"
KEYS = QueueKeys(QUEUE)


def put(broker: Broker, task_id: str, queue: str = QUEUE, **options: object) -> None:
    broker.run(enqueue(new_task(task_id, queue, payload=b"{}", **options), now_ns=broker.now_ns()))


def take(broker: Broker, queue: str = QUEUE) -> LeasedTask:
    order = dequeue.plan_dequeue([QueueWeight(queue=queue)], 1, worker_id="w")
    (taken,) = broker.run(dequeue.dequeue(order, now_ns=broker.now_ns()))
    return taken


def message_of(broker: Broker, task_id: str, queue: str = QUEUE) -> TaskMessage:
    return TaskMessage.FromString(redis_of(broker).hget(QueueKeys(queue).task(task_id), "msg"))


def state_of(broker: Broker, task_id: str, queue: str = QUEUE) -> str | None:
    """Return the state in a task's hash, or None if there is no such task."""
    state = redis_of(broker).hget(QueueKeys(queue).task(task_id), "state")
    return state and state.decode()


def indexes_of(broker: Broker, task_id: str, queue: str = QUEUE) -> list[str]:
    """Return the indexes that contain an id, each as often as it does."""
    keys, id_bytes = QueueKeys(queue), task_id.encode()
    indexes = []
    for name in ("pending", "active"):
        indexes += [name] * redis_of(broker).lrange(keys.prefix + name, 0, -1).count(id_bytes)
    for name in ("lease", "scheduled", "retry", "archived", "completed"):
        indexes += [name] * (redis_of(broker).zscore(keys.prefix + name, task_id) is not None)
    return indexes


class MovingClock:
    """The clock of this process, which a test moves. By itself it advances by a microsecond with each reading."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._now_ns = clock.now_ns()
        self._offset_ns = self._now_ns - clock.monotonic_ns()
        monkeypatch.setattr(clock, "now_ns", self._look)
        monkeypatch.setattr(clock, "monotonic_ns", lambda: self._look() - self._offset_ns)

    def advance(self, seconds: float) -> None:
        """Move the clock forward, or back by a negative number."""
        self._now_ns += int(seconds * 1e9)

    def _look(self) -> int:
        self._now_ns += 1000
        return self._now_ns


def delete_old_rows(*, at_once: int = 1000) -> None:
    """Delete what is no longer kept, this many rows at a time."""
    with pytest.MonkeyPatch.context() as patched:
        for module in (retention, runqy.audit.operations, webhooks.deliveries):
            patched.setattr(module, "ROWS_AT_ONCE", at_once)
        RetentionRunner().run(get_broker())
