"""Listing while tasks are enqueued, dequeued, requeued and deleted: those that stay are listed exactly once."""

import random

import pytest

from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.states import TaskState
from runqy.broker.tasks.finish import requeue
from runqy.broker.tasks.inspector import delete_tasks
from runqy.broker.tasks.listing import list_tasks
from tests.support.redis_client import redis_of
from tests.support.tasks import QUEUE, put, take

KEYS = QueueKeys(QUEUE)


class BusyQueue:
    """A queue to which something happens between two pages."""

    def __init__(self, broker: Broker, state: TaskState, chance: random.Random) -> None:
        self.broker, self.state, self.chance = broker, state, chance
        self.made = 0
        self.left: set[str] = set()

    def add(self, count: int) -> None:
        """Put tasks into the state; those of a sorted set share a few scores."""
        for _ in range(count):
            self.made += 1
            at_s = 4_000_000_000 + self.chance.randrange(3) if self.state is TaskState.SCHEDULED else None
            put(self.broker, f"{self.chance.randrange(10**6):06}-{self.made}", process_at_s=at_s)

    def present(self) -> list[str]:
        """Return the ids that are in the state."""
        if self.state is TaskState.SCHEDULED:
            return [task_id.decode() for task_id in redis_of(self.broker).zrange(KEYS.scheduled, 0, -1)]
        return [task_id.decode() for task_id in redis_of(self.broker).lrange(KEYS.pending, 0, -1)]

    def disturb(self) -> None:
        """Let something happen."""
        what = self.chance.choice(["add", "delete", "take", "give back", "nothing"])
        if what == "add":
            self.add(self.chance.randrange(1, 5))
        if what == "delete" and (here := self.present()):
            gone = self.chance.sample(here, min(len(here), self.chance.randrange(1, 3)))
            self.left.update(gone)
            self.broker.run(delete_tasks(QUEUE, gone))
        if what in ("take", "give back"):
            taken = take(self.broker, self.chance.randrange(1, 4))
            self.left.update(task.lease.task_id for task in taken)
            if what == "give back":
                for task in taken:
                    self.broker.run(requeue(task.lease, now_ns=self.broker.now_ns()))


@pytest.mark.parametrize("state", [TaskState.PENDING, TaskState.SCHEDULED])
@pytest.mark.parametrize("is_newest_first", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_tasks_that_stay_are_listed_exactly_once(
    single_broker: Broker, state: TaskState, is_newest_first: bool, seed: int
) -> None:
    queue = BusyQueue(single_broker, state, random.Random(seed))
    queue.add(25)
    before, found, end = queue.present(), [], None

    while True:
        page = single_broker.run(list_tasks(QUEUE, state, limit=3, is_newest_first=is_newest_first, after=end))
        found += [task.id for task in page.tasks]
        end = page.end
        if end is None:
            break
        queue.disturb()

    stayed = [task_id for task_id in before if task_id not in queue.left]
    assert sorted(task_id for task_id in found if task_id in stayed) == sorted(stayed)
