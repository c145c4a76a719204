"""Runs, archives and deletes tasks because somebody says so: one, or all of a state in bounded chunks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import partial

from runqy.broker import keys, timing
from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.links import Reply
from runqy.broker.lookups import forget_lookups
from runqy.broker.message import FRESH_START
from runqy.broker.operation import Request
from runqy.broker.scripts import Command, script
from runqy.broker.states import TaskState


class Outcome(IntEnum):
    """What became of a task that was to be moved; the numbers are the scripts'."""

    GONE = 0
    """There is no such task."""
    DONE = 1
    RUNNING = 2
    OTHERWISE = 3
    """It is in a state that this cannot be done in, or in the hands of asynq's aggregator."""
    BEFORE = 4
    """It was so already."""
    LOCKED = 5
    """Another task has the lock that it was made under."""


Verb = Callable[..., Request[list[Outcome]]]
"""`run_tasks`, `archive_tasks` or `delete_tasks`."""


def run_tasks(
    queue: str, task_ids: Sequence[str], *, wanted: TaskState | None = None, now_ns: int
) -> Request[list[Outcome]]:
    """Make tasks pending at once. One that is over starts anew, its retries unspent (contract 3.23)."""
    of = QueueKeys(queue)
    call = script("run_tasks")(
        pending=of.pending,
        scheduled=of.scheduled,
        retry=of.retry,
        archived=of.archived,
        completed=of.completed,
        idle=of.idle,
        task=[of.task(task_id) for task_id in task_ids],
        wanted=wanted or "",
        task_prefix=of.task_prefix,
        lock_prefix=of.lock_prefix,
        queue=queue,
        now_ns=now_ns,
        now_ms=now_ns // 1_000_000,
        fresh=FRESH_START,
        ids=task_ids,
    )
    return _request(call)


def archive_tasks(
    queue: str, task_ids: Sequence[str], *, wanted: TaskState | None = None, now_ns: int
) -> Request[list[Outcome]]:
    """Archive tasks that wait."""
    of, now_s = QueueKeys(queue), now_ns // 1_000_000_000
    call = script("archive_tasks")(
        pending=of.pending,
        scheduled=of.scheduled,
        retry=of.retry,
        archived=of.archived,
        task=[of.task(task_id) for task_id in task_ids],
        wanted=wanted or "",
        task_prefix=of.task_prefix,
        now_s=now_s,
        oldest_s=now_s - timing.ARCHIVE_MAX_AGE_S,
        most=timing.ARCHIVE_MAX_TASKS,
        ended_prefix=keys.ended_channel(""),
        ids=task_ids,
    )
    return _request(call)


def delete_tasks(
    queue: str, task_ids: Sequence[str], *, wanted: TaskState | None = None, now_ns: int = 0
) -> Request[list[Outcome]]:
    """Delete tasks that do not run, with their locks. The caller calls `forget_lookups` next."""
    of = QueueKeys(queue)
    call = script("delete_tasks")(
        pending=of.pending,
        scheduled=of.scheduled,
        retry=of.retry,
        archived=of.archived,
        completed=of.completed,
        task=[of.task(task_id) for task_id in task_ids],
        wanted=wanted or "",
        task_prefix=of.task_prefix,
        lock_prefix=of.lock_prefix,
        ended_prefix=keys.ended_channel(""),
        ids=task_ids,
    )
    return _request(call)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """What was done to the tasks of a state."""

    found: int
    """How many there were."""
    done: int


def count_in_state(broker: Broker, queue: str, state: TaskState) -> int:
    """Return how many tasks of a queue are in a state."""
    return broker.run(_some(queue, state, 0, 1))[0]


def move_all(broker: Broker, verb: Verb, queue: str, state: TaskState, *, most: int) -> Sweep:
    """Run, archive or delete the tasks of a state that are there now, at most so many, the oldest first.

    Each chunk is a script call of its own, so that Redis is never blocked for long; what a crash leaves undone is as it
    was. Tasks that leave the state meanwhile are left alone. Raises BrokerUnavailable.
    """
    found, ids = broker.run(_some(queue, state, 0, min(most, timing.BATCH_MAX_TASKS)))
    left, done, stayed = min(found, most), 0, 0
    while ids and left > 0:
        outcomes = broker.run(verb(queue, ids, wanted=state, now_ns=broker.now_ns()))
        done, stayed = done + outcomes.count(Outcome.DONE), stayed + outcomes.count(Outcome.LOCKED)
        if verb is delete_tasks:
            broker.run(forget_lookups(queue, [i for i, o in zip(ids, outcomes, strict=True) if o <= Outcome.DONE]))
        left -= len(ids)
        _, ids = broker.run(_some(queue, state, stayed, min(left, timing.BATCH_MAX_TASKS))) if left > 0 else (0, [])
    return Sweep(found=found, done=done)


def _some(queue: str, state: TaskState, offset: int, limit: int) -> Request[tuple[int, list[str]]]:
    """Return how many ids an index has, and some behind so many of the first."""
    call = script("list_ids")(index=QueueKeys(queue).index(state), offset=offset, limit=limit)
    return Request((call,), partial(_ids, is_list=state is TaskState.PENDING))


def _ids(replies: Sequence[Reply], *, is_list: bool) -> tuple[int, list[str]]:
    """Read ids, those of a list from its right end."""
    count, found = replies[0]
    ids = [task_id.decode(errors="replace") for task_id in found]
    return count, ids[::-1] if is_list else ids


def _request(call: Command) -> Request[list[Outcome]]:
    """Return the request for one of the scripts."""
    return Request((call,), lambda replies: [Outcome(code) for code in replies[0]])
