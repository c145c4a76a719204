"""A model of tasks and queues, which is compared with Redis after every step."""

from dataclasses import dataclass, field

import pytest
from hypothesis.stateful import RuleBasedStateMachine, invariant

from runqy.broker import keys
from runqy.broker.asynq_pb2 import TaskMessage
from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.queues.stats import count_tasks
from runqy.broker.tasks.lease import Lease
from runqy.broker.tasks.reader import find_task
from runqy.errors import TaskNotFound
from tests.support.redis_client import redis_of
from tests.support.tasks import counters, listed

QUEUES = ("high", "low")
IDS = [f"t{i}" for i in range(6)]
START_S = 1_700_000_000
TTL_ARCHIVED_S = 259_200


def queue_of(task_id: str) -> str:
    """Return the queue of a task."""
    return QUEUES[int(task_id[1:]) % 2]


@dataclass
class Model:
    """The expected state of a task."""

    message: TaskMessage
    state: str
    score: int = 0
    owner: str = ""
    finished_by: str = ""
    cancel: bool = False
    result: bytes | None = None


@dataclass
class QueueModel:
    """What a queue ought to be."""

    pending: list[str] = field(default_factory=list)
    is_paused: bool = False
    processed: int = 0
    failed: int = 0


class ModelledLife(RuleBasedStateMachine):
    """Holds the model; its heirs do the same to Redis and to it."""

    broker: Broker

    def __init__(self) -> None:
        super().__init__()
        client = redis_of(self.broker)
        client.flushall(target_nodes="primaries") if self.broker.is_cluster else client.flushall()
        self.now_s, self.tick = START_S, 0
        self.broker.now_ns = lambda: self.now_ns  # type: ignore[method-assign]
        self.tasks: dict[str, Model] = {}
        self.queues = {queue: QueueModel() for queue in QUEUES}
        self.deleted_by: dict[str, str] = {}
        self.leases: list[tuple[Lease, TaskMessage]] = []

    @property
    def now_ns(self) -> int:
        """Return a new time for each call, because producers are identified by it."""
        self.tick += 1
        return self.now_s * 1_000_000_000 + self.tick

    def archive_model(self, task_id: str, error: str, *, counts: bool) -> None:
        """Archive a task in the model."""
        task, queue = self.tasks[task_id], self.queues[queue_of(task_id)]
        task.state, task.score, task.owner = "archived", self.now_s + TTL_ARCHIVED_S, ""
        task.message.error_msg, task.message.last_failed_at = error, self.now_s
        queue.processed += counts
        queue.failed += counts

    @invariant()
    def every_id_is_in_the_index_of_its_state_and_no_other(self) -> None:
        """Compare the indexes."""
        for queue in QUEUES:
            expected: dict[str, list[str]] = {"pending": self.queues[queue].pending}
            for task_id, task in self.tasks.items():
                if queue_of(task_id) == queue and task.state != "pending":
                    expected.setdefault(task.state, []).append(task_id)
            if "active" in expected:
                expected["lease"] = expected["active"]
            found = listed(self.broker, queue)
            assert found.get("pending", []) == expected.pop("pending")
            found.pop("pending", None)
            assert {k: sorted(v) for k, v in found.items()} == {k: sorted(v) for k, v in expected.items()}

    @invariant()
    def every_task_is_what_it_ought_to_be(self) -> None:
        """Compare the tasks."""
        for task_id in IDS:
            task = self.tasks.get(task_id)
            if task is None:
                with pytest.raises(TaskNotFound):
                    self.broker.run(find_task(self.broker, task_id, QUEUES))
                continue
            record = self.broker.run(find_task(self.broker, task_id))
            assert record.message == task.message
            assert (record.state, record.result) == (task.state, task.result)
            assert record.score_s == (None if task.state == "pending" else task.score)
            assert (record.pending_since_ns is not None) == (task.state == "pending")
            stored = redis_of(self.broker).hget(QueueKeys(queue_of(task_id)).task(task_id), "owner")
            assert (stored or b"").decode() == task.owner

    @invariant()
    def counters_agree(self) -> None:
        """Compare the counters, and the counts with the indexes."""
        for queue, counts in zip(QUEUES, self.broker.run(count_tasks(QUEUES, now_ns=self.now_ns)), strict=True):
            model = self.queues[queue]
            assert counters(self.broker, queue) == (model.processed, model.failed)
            assert counts.size == sum(queue_of(task_id) == queue for task_id in self.tasks)
            assert counts.is_paused == model.is_paused

    @invariant()
    def every_task_can_be_looked_up(self) -> None:
        """Compare the lookups."""
        for task_id in self.tasks:
            assert redis_of(self.broker).hget(keys.lookup(task_id), "queue") == queue_of(task_id).encode()
