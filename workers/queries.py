"""Queries of workers and their state, and of the tasks that lost workers had."""

import contextlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.db import DatabaseError, InterfaceError

from queues.catalog import AllowedQueues
from queues.queries import get_fresh_catalog
from runqy.broker.broker import Broker
from runqy.broker.constants import HEARTBEAT_TTL_S
from runqy.broker.request import Request, raise_error
from runqy.broker.states import TaskState
from runqy.broker.tasks.reader import TaskLocation, read_holders
from runqy.broker.workers.claims import read_registration_times
from runqy.broker.workers.heartbeats import (
    find_worker_record,
    list_live_and_lost_records,
    list_running_tasks,
    list_worker_records,
)
from runqy.broker.workers.records import RunningTask, WorkerRecord, WorkerState
from runqy.core.api_keys import Identity
from runqy.errors import KeyInsufficient, WorkerNotFound
from tasks.history.queries import find_last_ends, list_lost_runs
from tasks.models import TaskRun

MAX_TASKS = 1000
"""How many tasks are looked up, for all lost workers of a list together."""
OWN_CREDENTIALS_SHARED = (
    "Workers without their own Redis user receive the server's Redis credentials:"
    " set RUNQY_WORKER_REDIS_URL to a separate user, or RUNQY_WORKER_ACL=required."
)


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


IsAllowed = Callable[[str], bool]
"""Called with the name of a Redis queue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatus:
    """A worker, the tasks that it runs, and whether it still reports."""

    record: WorkerRecord
    """What the worker reported. If its heartbeats are overdue, the state is `disconnected`, or `lost`, and the reason
    says why."""
    running: tuple[RunningTask, ...] = ()
    is_stale: bool = False
    """Its heartbeats are overdue."""
    held: tuple[HeldTask, ...] = ()
    """The tasks of a lost worker."""

    @property
    def disconnected_since_s(self) -> int | None:
        return self.record.last_beat_s if self.is_stale else None

    @property
    def is_lost(self) -> bool:
        return self.record.state is WorkerState.LOST

    @property
    def request_obstacle(self) -> str:
        """Return why the worker cannot be drained, restarted or stopped from here; empty if it can."""
        if self.is_lost:
            return "It is lost: it ended, or cannot reach Redis."
        if self.record.is_foreign:
            return f"{self.record.program} reads no requests. Send SIGTERM to process {self.record.pid} on its host."
        if self.record.is_refused:
            return "The server refused its registration, so it cannot reach Redis. Send SIGTERM to its process."
        return ""

    @property
    def has_problem(self) -> bool:
        """Return whether the worker is ready, but reports a problem as its reason."""
        return self.record.state is WorkerState.READY and bool(self.record.reason)


def are_own_credentials_shared() -> bool:
    own, shared = settings.REDIS_TARGET, settings.RUNQY_WORKER_REDIS_TARGET
    is_same = (own.username or "default", own.password) == (shared.username or "default", shared.password)
    return is_same and settings.RUNQY_WORKER_ACL != "required"


def list_registrable_queues(identity: Identity) -> list[str]:
    """Return the names, sorted, of the enabled queues that a key may register workers for.

    Raise ConfigurationUnavailable.
    """
    return [
        queue.name
        for queue in get_fresh_catalog().definitions
        if queue.is_enabled
        and (identity.queues is None or queue.name in identity.queues)
        and not queue.deployment.find_refused_vaults(identity.vaults)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerList:
    """Workers, and those that were lost."""

    live: list[WorkerStatus]
    """Those that sent a heartbeat in the last minute, sorted by id, with Go's and asynq's servers."""
    lost: list[WorkerStatus]
    """Those of runqy that fell silent within a day without deregistering, the last one first."""


def list_workers(broker: Broker, *, allowed_queues: AllowedQueues = None) -> WorkerList:
    """Return the workers.

    `allowed_queues` leaves only workers that serve one of these, and of their data only these. Raise BrokerUnavailable.
    """
    is_allowed = _get_queue_filter(allowed_queues)
    live, lost = (
        [record for record in records if _serves(record, is_allowed)] for records in list_live_and_lost_records(broker)
    )
    return _build_list(broker, live, lost, is_allowed)


def get_worker(broker: Broker, worker_id: str, *, allowed_queues: AllowedQueues = None) -> WorkerStatus:
    """Return one worker, as in `list_workers`. Raise WorkerNotFound, BrokerUnavailable."""
    found, is_allowed = find_worker_record(broker, worker_id), _get_queue_filter(allowed_queues)
    if found is None or not _serves(found[0], is_allowed):
        raise WorkerNotFound(
            f"No worker {worker_id[:128]!r} is registered, and none of this id was lost in the last day. A worker that "
            "has stopped or drained is not listed."
        )
    record, is_lost = found
    workers = _build_list(broker, [] if is_lost else [record], [record] if is_lost else [], is_allowed)
    return (workers.live + workers.lost)[0]


def find_process(broker: Broker, worker: WorkerRecord, *, allowed_queues: AllowedQueues = None) -> list[str]:
    """Return the ids of the workers of a process, given one of them: it has one for each of its queues.

    Raise KeyInsufficient if one of them serves a queue that is not allowed.
    """
    is_allowed = _get_queue_filter(allowed_queues)
    records = [record for record in list_worker_records(broker) if record.process == worker.process]
    if is_allowed and not all(is_allowed(name) for record in records for name in record.redis_queues):
        raise KeyInsufficient("This key is limited to queues, and the worker's process serves others too.")
    return sorted({worker.worker_id} | {record.worker_id for record in records})


def _build_list(
    broker: Broker, live: Sequence[WorkerRecord], lost: Sequence[WorkerRecord], is_allowed: IsAllowed | None
) -> WorkerList:
    """Complete records by what other keys and the history have, in one round trip."""
    if not live and not lost:
        return WorkerList(live=[], lost=[])
    now_s = broker.now_s()
    stale = [*(record for record in live if record.is_stale(now_s)), *lost]
    candidates = list_candidates(lost)
    requests: list[Request[Any]] = [
        list_running_tasks(live),
        read_registration_times([record.worker_id for record in stale]),
        read_holders([task.location for task in candidates]),
    ]
    running, registered_s, holders = map(raise_error, broker.run_all(requests))
    held = find_outcomes(candidates, holders)
    lost_ids = {record.worker_id for record in lost}
    shown = {
        record.worker_id: _explain_silence(record, registered_at_s, is_lost=record.worker_id in lost_ids)
        for record, registered_at_s in zip(stale, registered_s, strict=True)
    }
    tasks_of = {record.worker_id: tasks for record, tasks in zip(live, running, strict=True)}

    def build(record: WorkerRecord) -> WorkerStatus:
        tasks, own = tasks_of.get(record.worker_id, []), held.get(record.worker_id, [])
        return WorkerStatus(
            record=_limit_to_queues(shown.get(record.worker_id, record), is_allowed),
            running=tuple(task for task in tasks if is_allowed is None or is_allowed(task.redis_queue)),
            is_stale=record.worker_id in shown,
            held=tuple(task for task in own if is_allowed is None or is_allowed(task.redis_queue)),
        )

    return WorkerList(live=[*map(build, live)], lost=[*map(build, lost)])


def _explain_silence(record: WorkerRecord, registered_at_s: int, *, is_lost: bool) -> WorkerRecord:
    """Return the record of a worker whose heartbeats are overdue, as `disconnected` or `lost`, with the reason."""
    state = WorkerState.LOST if is_lost else WorkerState.DISCONNECTED
    return replace(record, state=state, reason=_disconnect_reason(record, registered_at_s))


def _disconnect_reason(record: WorkerRecord, registered_at_s: int) -> str:
    silence = f"no heartbeat has reached Redis since {_format_time(record.last_beat_s)}"
    # A worker that has lost Redis registers again, over HTTP.
    if registered_at_s > record.last_beat_s + HEARTBEAT_TTL_S:
        cause = f"It cannot reach Redis: {silence}, but it registered over HTTP at {_format_time(registered_at_s)}."
    else:
        cause = f"It ended without notice or cannot reach Redis: {silence}."
    return f"{cause} Its last state was {record.state}{f': {record.reason}' if record.reason else '.'}"


def _format_time(unix_s: int) -> str:
    return f"{datetime.fromtimestamp(unix_s, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _get_queue_filter(allowed_queues: AllowedQueues) -> IsAllowed | None:
    """Return a predicate for the Redis queues of these queues; None if all queues are allowed."""
    if allowed_queues is None:
        return None
    catalog = get_fresh_catalog()

    def is_allowed(redis_queue: str) -> bool:
        resolved = catalog.find(redis_queue)
        return resolved is not None and resolved.queue.name in allowed_queues

    return is_allowed


def _serves(record: WorkerRecord, is_allowed: IsAllowed | None) -> bool:
    return is_allowed is None or any(map(is_allowed, record.redis_queues))


def _limit_to_queues(record: WorkerRecord, is_allowed: IsAllowed | None) -> WorkerRecord:
    """Return a record without the queues that are not allowed. A Go worker may serve several queues."""
    if is_allowed is None or all(map(is_allowed, record.redis_queues)):
        return record
    redis_queues = {name: priority for name, priority in record.redis_queues.items() if is_allowed(name)}
    return replace(record, redis_queues=redis_queues, queue=",".join(redis_queues))
