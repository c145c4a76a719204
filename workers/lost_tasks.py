"""The tasks that lost workers had, and what became of them."""

import contextlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from django.db import DatabaseError, InterfaceError

from runqy.broker.states import TaskState
from runqy.broker.tasks.reader import TaskLocation
from runqy.broker.workers.records import WorkerRecord
from tasks.history.queries import find_last_ends, list_lost_runs
from tasks.models import TaskRun

MAX_TASKS = 1000
"""How many tasks are looked up, for all lost workers of a list together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldTask:
    """A task that a worker had when it was lost, and what became of it."""

    task_id: str
    redis_queue: str
    state: str
    """The state of the task now. If it no longer exists, the outcome of its last run, or `deleted`."""
    worker_id: str
    """The worker of its last run: the lost one until another runs it. Empty if unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A task that a lost worker may have had."""

    lost_worker_id: str
    location: TaskLocation
    is_certain: bool
    """Its Redis queue is known. A heartbeat names only ids, which are unique only within a Redis queue."""


def list_candidates(lost: Sequence[WorkerRecord]) -> list[Candidate]:
    """Return the tasks that were recovered from lost workers, and those that their last heartbeats name."""
    recovered: dict[str, set[TaskLocation]] = {record.worker_id: set() for record in lost}
    if lost:
        # Without the database, the tasks that a worker took after its last heartbeat are unknown.
        with contextlib.suppress(DatabaseError, InterfaceError):
            for run in list_lost_runs(recovered, limit=MAX_TASKS):
                recovered[run.worker_id].add((run.redis_queue, run.task_id))
    found = []
    for record in lost:
        known = recovered[record.worker_id]
        ids = {task_id for _, task_id in known}
        is_certain = len(record.redis_queues) == 1
        found += [Candidate(lost_worker_id=record.worker_id, location=each, is_certain=True) for each in sorted(known)]
        found += [
            Candidate(lost_worker_id=record.worker_id, location=(name, task_id), is_certain=is_certain)
            for task_id in record.running
            if task_id not in ids
            for name in record.redis_queues
        ]
    return found[:MAX_TASKS]


def find_outcomes(
    candidates: Sequence[Candidate], holders: Sequence[tuple[TaskState, str] | None]
) -> Mapping[str, Sequence[HeldTask]]:
    """Return what became of the tasks, by the id of the lost worker. `holders` is what `read_holders` returned."""
    ends: Mapping[TaskLocation, TaskRun] = {}
    if missing := [each.location for each, holder in zip(candidates, holders, strict=True) if holder is None]:
        with contextlib.suppress(DatabaseError, InterfaceError):
            ends = find_last_ends(missing)
    held = defaultdict[str, list[HeldTask]](list)
    for candidate, holder in zip(candidates, holders, strict=True):
        redis_queue, task_id = candidate.location
        end = ends.get(candidate.location)
        if holder is None and end is None and not candidate.is_certain:
            continue
        state, worker_id = holder or ((end.outcome, "") if end else ("deleted", ""))
        task = HeldTask(task_id=task_id, redis_queue=redis_queue, state=str(state), worker_id=worker_id)
        held[candidate.lost_worker_id].append(task)
    return held
