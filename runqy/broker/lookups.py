"""Removes lookups (`asynq:t:<id>`) whose task is gone.

A lookup is in another slot than its task, so it can't go in the same script. Whoever deletes a task calls
`forget_lookups` next; the sweep finds what a crash or asynq's own tools left behind.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from runqy.broker import keys
from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.links import Reply
from runqy.broker.operation import Operation, Request, ask_all
from runqy.broker.scanning import KeyWalk
from runqy.broker.scripts import command, script
from runqy.broker.timing import BATCH_MAX_TASKS

CONFIRM_AFTER_S = 60
"""A lookup is written before its task, so one without a task is only removed if it still has none after this long."""

MAX_SUSPECTS = 10_000


def forget_lookup(queue: str, task_id: str) -> Request[bool]:
    """Remove the lookup of a task that is gone, unless it names another queue by now."""
    forget = script("forget_lookup")(lookup=keys.lookup(task_id), queue=queue)
    return Request((forget,), lambda replies: replies[0] == 1)


def forget_lookups(queue: str, task_ids: Sequence[str]) -> Operation[None]:
    """Remove the lookups of tasks that are gone."""
    for start in range(0, len(task_ids), BATCH_MAX_TASKS):
        yield from ask_all([forget_lookup(queue, task_id) for task_id in task_ids[start : start + BATCH_MAX_TASKS]])


class LookupSweep:
    """Walks over all lookups in bounded steps and removes those without a task."""

    def __init__(self, step: int = 1000) -> None:
        self._walk = KeyWalk(keys.lookup("*"), step)
        self._suspects: dict[tuple[str, str], int] = {}  # (id, queue) -> s at which it was first seen without a task

    @property
    def is_round_complete(self) -> bool:
        """Tell whether every key has been met, so that the next step starts a new round."""
        return self._walk.is_at_start

    def run_step(self, broker: Broker) -> int:
        """Look at the next lookups, and remove those that have been without a task for a minute; return how many."""
        now_s = broker.now_s()
        ids = [key.removeprefix(keys.lookup("")) for key in self._walk.next_keys(broker)]
        seen = zip(ids, broker.run(_queues_of(ids)), strict=True)
        for suspect in _without_task(broker, seen):
            if len(self._suspects) < MAX_SUSPECTS:
                self._suspects.setdefault(suspect, now_s)
        due = [suspect for suspect, since_s in self._suspects.items() if now_s - since_s >= CONFIRM_AFTER_S]
        return self._remove(broker, due)

    def _remove(self, broker: Broker, due: Sequence[tuple[str, str]]) -> int:
        """Remove those of the suspects that still have no task; none of them stays a suspect."""
        confirmed = _without_task(broker, due)
        removed = broker.run_all([forget_lookup(queue, task_id) for task_id, queue in confirmed])
        for suspect in due:
            del self._suspects[suspect]
        return sum(outcome is True for outcome in removed)


def _queues_of(ids: Sequence[str]) -> Request[list[str]]:
    """Ask which queue each lookup names; empty for one that names none."""
    looked_up = [keys.lookup(task_id) for task_id in ids]

    def parse(replies: Sequence[Reply]) -> list[str]:
        return [(reply or b"").decode(errors="replace") for reply in replies]

    return Request(tuple(command("HGET", key, "queue", key=key) for key in looked_up), parse)


def _without_task(broker: Broker, lookups: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return those lookups (id, queue) whose queue has no such task."""
    asked = list(lookups)
    tasks = [QueueKeys(queue).task(task_id) for task_id, queue in asked]
    exist: list[int] = broker.run(Request(tuple(command("EXISTS", task, key=task) for task in tasks), list))
    return [lookup for lookup, count in zip(asked, exist, strict=True) if not count]
