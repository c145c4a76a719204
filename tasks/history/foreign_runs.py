"""Record attempts that workers of other programs ended, from the state in which they left their tasks.

Such workers append nothing to the stream of runs. The last attempt of each task that Redis still shows is recorded, and
only while Go workers are registered. A task often outlives the row of its run, so runs that ended before the newest
deleted ones are not stored again (`PrunedRuns`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import structlog
from django.conf import settings

from queues.catalog import QueueCatalog
from queues.definitions import Limits
from runqy.broker.broker import Broker
from runqy.broker.duties.orphans import has_go_workers
from runqy.broker.replies import replace_nul
from runqy.broker.scanning import run_requests
from runqy.broker.states import RunOutcome, TaskState
from runqy.broker.streams.run_log import PAYLOAD_MAX_BYTES, RESULT_MAX_BYTES, EndedRun, cut_error
from runqy.broker.tasks.archive_reasons import find_archive_outcome, is_archived_by_user
from runqy.broker.tasks.listing import Page, list_tasks
from runqy.broker.tasks.record import TaskRecord
from runqy.core.telemetry.tracing import REQUEST_ID
from tasks.history.record import count_invalid_run, store_runs
from tasks.history.rows import QueueIdentity
from tasks.models import ID_MAX_LENGTH
from tasks.transactions import store_or_drop

PAGE_SIZE = 200
MAX_PAGES = 10
"""The pages of each state and queue that one call reads."""
MAX_REMEMBERED = 100_000

_ENDED_BY_RUNQY = (RunOutcome.CANCELED, RunOutcome.EXPIRED)
"""Outcomes of tasks that no foreign worker ended."""
_STATES = (TaskState.COMPLETED, TaskState.ARCHIVED, TaskState.RETRY)

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class ForeignRunSearch:
    """Searches for runs of foreign workers among the newest tasks that ended or wait for a retry."""

    _known: dict[tuple[str, str], None] = field(default_factory=dict)
    """Runs that this process has stored, so that it does not try to store them again."""

    def record_all(self, broker: Broker, queues: Sequence[str], catalog: QueueCatalog | None) -> int:
        """Store new runs, and return how many. Raise BrokerUnavailable, DatabaseError."""
        if not broker.run(has_go_workers()):
            return 0
        return sum(self._record_state(broker, queues, catalog, state) for state in _STATES)

    def _record_state(
        self, broker: Broker, queues: Sequence[str], catalog: QueueCatalog | None, state: TaskState
    ) -> int:
        now_ns = broker.now_ns()
        oldest_ns = now_ns - settings.RUNQY_HISTORY_DAYS * 86_400 * 10**9
        stored, pages = 0, self._read_pages(broker, dict.fromkeys(queues), state)
        for _ in range(MAX_PAGES):
            following: dict[str, Page | None] = {}
            for queue, page in pages.items():
                found = find_foreign_runs(page.tasks, now_ns=now_ns, archived_ttl_s=_archived_ttl_s(queue, catalog))
                runs = [
                    run for run in found if run.ended_ns > oldest_ns and (run.task_id, run.run_id) not in self._known
                ]
                if runs:  # pages are read as long as they have something new
                    identity = QueueIdentity.find(queue, catalog)
                    stored += _store(identity, runs)
                    self._remember(runs)
                    following |= {queue: page} if page.end else {}
            if not following:
                break
            pages = self._read_pages(broker, following, state)
        return stored

    def _read_pages(self, broker: Broker, after: dict[str, Page | None], state: TaskState) -> dict[str, Page]:
        requests = {
            queue: list_tasks(queue, state, limit=PAGE_SIZE, is_newest_first=True, after=page.end if page else None)
            for queue, page in after.items()
        }
        return broker.run(run_requests(broker, requests))

    def _remember(self, runs: Sequence[EndedRun]) -> None:
        if len(self._known) > MAX_REMEMBERED:
            self._known.clear()
        self._known |= {(run.task_id, run.run_id): None for run in runs}


def find_foreign_runs(records: Sequence[TaskRecord], *, now_ns: int, archived_ttl_s: int) -> Iterator[EndedRun]:
    """Yield the last run of each task that no runqy worker has run, and that the server did not end."""
    for record in records:
        is_ended_here = find_archive_outcome(record, now_s=now_ns // 10**9) in _ENDED_BY_RUNQY
        is_archived_unrun = record.state is TaskState.ARCHIVED and not record.error
        is_storable = len(record.id) <= ID_MAX_LENGTH and "\0" not in record.id
        if is_storable and not (record.counted_attempts or is_ended_here or is_archived_unrun):
            end = _find_end(record, now_ns // 10**9, archived_ttl_s)
            if end is not None:
                yield _foreign_run(record, end)


@dataclass(frozen=True, slots=True, kw_only=True)
class _RunEnd:
    """How the last run of a task ended."""

    run_id: str
    """The same in every later state of the task: one that fails and is archived by hand has run once."""
    outcome: RunOutcome
    ended_ns: int


def _find_end(record: TaskRecord, now_s: int, archived_ttl_s: int) -> _RunEnd | None:
    """Return the end of a task's last run; None if it is unknown."""
    # asynq stores when a task failed or completed. Go's runqy-worker may not, but its scores are the times at which
    # tasks expire or run again.
    failed_at_s, score_s = record.message.last_failed_at, record.score_s or 0
    if record.state is TaskState.COMPLETED:
        at_s = score_s - record.message.retention
        return _end(RunOutcome.COMPLETED, record.completed_at_ns or at_s * 10**9)
    if record.state is TaskState.RETRY:
        return _end(RunOutcome.RETRIED, failed_at_s * 10**9) if failed_at_s else _end_before(score_s, now_s, now_s)
    # A task that was archived by hand keeps the failure of its last run, which was a retry.
    is_by_hand = is_archived_by_user(record, now_s=now_s)
    outcome = find_archive_outcome(record, now_s=now_s) or RunOutcome.FAILED
    if failed_at_s:
        return _end(RunOutcome.RETRIED if is_by_hand else outcome, failed_at_s * 10**9)
    return None if is_by_hand else _end_before(score_s, now_s, score_s - archived_ttl_s, outcome)


def _end(outcome: RunOutcome, ended_ns: int) -> _RunEnd:
    return _RunEnd(run_id=f"foreign-{ended_ns // 10**9}", outcome=outcome, ended_ns=ended_ns)


def _end_before(score_s: int, now_s: int, ended_s: int, outcome: RunOutcome = RunOutcome.RETRIED) -> _RunEnd:
    # The time is only an estimate, so the score identifies the run.
    return _RunEnd(run_id=f"foreign-until-{score_s}", outcome=outcome, ended_ns=min(ended_s, now_s) * 10**9)


def _foreign_run(record: TaskRecord, end: _RunEnd) -> EndedRun:
    attempt = record.retried + (0 if end.outcome is RunOutcome.RETRIED else 1)
    return EndedRun(
        task_id=record.id,
        run_id=end.run_id,
        outcome=end.outcome,
        is_final=end.outcome is not RunOutcome.RETRIED,
        ended_ns=end.ended_ns,
        # These come from Redis, where a worker writes what it likes: they must fit the columns of `TaskRun`.
        attempt=min(max(attempt, 1), 2**31 - 1),
        enqueued_ns=record.enqueued_at_ns,
        started_ns=record.started_at_ns,
        worker_id=replace_nul(record.worker_id)[:ID_MAX_LENGTH],
        request_id=replace_nul(record.message.headers.get(REQUEST_ID, ""))[:128],
        error="" if end.outcome is RunOutcome.COMPLETED else cut_error(replace_nul(record.error)),
        payload=record.payload[:PAYLOAD_MAX_BYTES],
        result=None if record.result is None else record.result[:RESULT_MAX_BYTES],
        is_foreign=True,
    )


def _store(identity: QueueIdentity, runs: Sequence[EndedRun]) -> int:
    def drop(run: EndedRun, error: Exception) -> None:
        log.warning("run_not_stored", queue=identity.redis_queue, task_id=run.task_id, error=str(error))
        count_invalid_run(identity)

    return store_or_drop(runs, partial(store_runs, identity), drop)


def _archived_ttl_s(queue: str, catalog: QueueCatalog | None) -> int:
    resolved = catalog.find(queue) if catalog else None
    return resolved.queue.limits.ttl_archived_s if resolved else Limits().ttl_archived_s
