"""Remove index entries (`asynq:t:<id>`) and output of tasks that no longer exist; keep the output of the others.

An index entry is in another slot than its task, so one script cannot delete both. Code that deletes a task calls
`remove_lookups` next. `LookupSweep` removes what a crash or asynq's own tools left.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from runqy.broker import keys
from runqy.broker.broker import Broker
from runqy.broker.constants import BATCH_MAX_TASKS
from runqy.broker.keys import QueueKeys
from runqy.broker.replies import Reply
from runqy.broker.request import AnyBroker, Request
from runqy.broker.scanning import KeyScanner
from runqy.broker.scripts import command, script
from runqy.broker.tasks.output import delete_stray_output, keep_outputs

CONFIRM_AFTER_S = 60
"""An index entry is written before its task: it is removed if the task is still missing after this long."""

MAX_SUSPECTS = 10_000


def remove_lookup(queue: str, task_id: str) -> Request[bool]:
    """Remove the index entry of a deleted task, unless it names another queue by now."""
    forget = script("remove_lookup")(lookup=keys.lookup(task_id), queue=queue)
    return Request((forget,), lambda replies: replies[0] == 1)


async def remove_lookups(broker: AnyBroker, queue: str, task_ids: Sequence[str]) -> None:
    for start in range(0, len(task_ids), BATCH_MAX_TASKS):
        await broker.send_all([remove_lookup(queue, task_id) for task_id in task_ids[start : start + BATCH_MAX_TASKS]])


class LookupSweep:
    """Scans all index entries in bounded steps. It removes those without a task, and keeps the output of the others."""

    def __init__(self, step: int = 1000) -> None:
        self._scanner = KeyScanner(keys.lookup("*"), step)
        self._suspects: dict[tuple[str, str], int] = {}  # (id, queue) -> s at which it was first seen without a task

    @property
    def is_round_complete(self) -> bool:
        return self._scanner.is_at_start

    async def run_step(self, broker: Broker) -> int:
        """Check the entries of the next step, and remove those that have been without a task for a minute; return how
        many.
        """
        now_s = broker.now_s()
        ids = [key.removeprefix(keys.lookup("")) for key in await self._scanner.next_keys(broker)]
        seen = list(zip(ids, await broker.send(_read_queues(ids)), strict=True))
        missing = await _without_task(broker, seen)
        await broker.send(keep_outputs([(queue, task_id) for task_id, queue in {*seen}.difference(missing)]))
        for suspect in missing:
            if len(self._suspects) < MAX_SUSPECTS:
                self._suspects.setdefault(suspect, now_s)
        due = [suspect for suspect, since_s in self._suspects.items() if now_s - since_s >= CONFIRM_AFTER_S]
        return await self._remove(broker, due)

    async def _remove(self, broker: Broker, due: Sequence[tuple[str, str]]) -> int:
        confirmed = await _without_task(broker, due)
        await broker.send_all([delete_stray_output(queue, task_id) for task_id, queue in confirmed])
        removed = await broker.send_all([remove_lookup(queue, task_id) for task_id, queue in confirmed])
        for suspect in due:
            del self._suspects[suspect]
        return sum(outcome is True for outcome in removed)


def _read_queues(ids: Sequence[str]) -> Request[list[str]]:
    lookups = [keys.lookup(task_id) for task_id in ids]

    def parse(replies: Sequence[Reply]) -> list[str]:
        return [(reply or b"").decode(errors="replace") for reply in replies]

    return Request(tuple(command("HGET", key, "queue", key=key) for key in lookups), parse)


async def _without_task(broker: Broker, lookups: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    pairs = list(lookups)
    tasks = [QueueKeys.of(queue).task(task_id) for task_id, queue in pairs]
    exist: list[int] = await broker.send(Request(tuple(command("EXISTS", task, key=task) for task in tasks), list))
    return [lookup for lookup, count in zip(pairs, exist, strict=True) if not count]
