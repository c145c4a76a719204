"""Apply bulk actions, slice by slice, under a lease.

A slice that was interrupted, even by kill -9, is found and applied again. That is safe: tasks that changed since the
request are left alone, the id of a copy follows from the bulk action and its original, and Redis enqueues an id once.
The counts leave out what a killed process did in its slice. See docs/adr/0031.
"""

import secrets
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import F, Q, QuerySet
from django.utils import timezone

from runqy import clock
from runqy.audit.actors import Actor, actor_context
from runqy.audit.changes import Changes
from runqy.audit.operations import record
from runqy.broker.broker import Broker
from runqy.broker.replies import replace_nul
from runqy.broker.states import TaskState
from runqy.broker.tasks.enqueue import IDEMPOTENCY_TTL_S, EnqueuedTooLate, NewTask
from runqy.broker.tasks.reader import TaskLocation, read_states, read_tasks
from runqy.errors import BrokerUnavailable, ConfigurationUnavailable, QueueFull, RunqyError
from runqy.http.request_ids import request_id_context
from tasks.actions import TaskAction, apply_in_state
from tasks.bulk_actions import AUDIT_KIND, get_query, may_continue
from tasks.bulk_slices import find_next_slice, select_still_matching, state_since_ns
from tasks.copies import add_copy, find_stored_payloads
from tasks.models import BulkAction, TaskCopy, TaskRun
from tasks.operations import forget_enqueued_ids
from tasks.task_browser import TaskQuery

LEASE_S = 30
TICK_S = 2.0
"""The time that one tick takes at most, apart from its last slice."""
FULL_QUEUE_RETRY_S = 5
KEEP_DAYS = 30
MAX_PROBLEMS = 20
_COPIES_PER_STEP = 20
"""After this many copies the lease is extended and they are stored."""
_END = "end"
"""The cursor of a bulk action that has no more slices."""
_NOT_PERMITTED = "The user who requested it may no longer do this."
_State = BulkAction.State
_Outcome = BulkAction.Outcome
States = Mapping[TaskLocation, TaskState | None]


class BulkLeaseLost(Exception):
    """The bulk action was cancelled, or another process has taken its lease."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HandledTask:
    """What happened to a task."""

    queue: str
    id: str
    outcome: BulkAction.Outcome
    note: str = ""
    """Why the action was not applied."""
    copy_id: str = ""


def run_bulk_actions(broker: Broker) -> None:
    """Continue the bulk actions that no process has leased, for TICK_S.

    Raise BrokerUnavailable, ConfigurationUnavailable.
    """
    until = clock.monotonic_s() + TICK_S
    for number in list(_find_free().order_by("id").values_list("pk", flat=True)[:100]):
        if clock.monotonic_s() >= until:
            return
        runner = BulkRunner.lease(broker, number)
        if runner is not None:
            runner.run(until=until)


def delete_old_bulk_actions(*, limit: int = 1_000) -> None:
    """Delete bulk actions and links to copies that are older than KEEP_DAYS, at most `limit` links."""
    before = timezone.now() - timedelta(days=KEEP_DAYS)
    copies = TaskCopy.objects.filter(created_at__lt=before).values_list("pk", flat=True)[:limit]
    TaskCopy.objects.filter(pk__in=list(copies)).delete()
    BulkAction.objects.filter(ended_at__lt=before, copies=None).delete()


class BulkRunner:
    """Applies one bulk action, whose lease it holds."""

    def __init__(self, broker: Broker, bulk: BulkAction, token: str) -> None:
        self._broker = broker
        self._bulk = bulk
        self._token = token
        self._query: TaskQuery = get_query(bulk)
        self._action = TaskAction(bulk.action)
        self._handled: list[HandledTask] = []  # not yet counted

    @classmethod
    def lease(cls, broker: Broker, number: int) -> "BulkRunner | None":
        """Lease a bulk action; return None if it has ended or another process has its lease."""
        token = secrets.token_hex(16)
        if not _find_free().filter(pk=number).update(lease=token, leased_until=_lease_end()):
            return None
        # A bulk action that runs already keeps the time at which it started.
        new = BulkAction.objects.filter(pk=number, state=_State.WAITING)
        new.update(state=_State.RUNNING, started_at=timezone.now())
        return cls(broker, BulkAction.objects.get(pk=number), token)

    def run(self, *, until: float) -> None:
        """Apply slices until a time, the end, or a full queue. Other errors end the bulk action.

        Raise BrokerUnavailable, ConfigurationUnavailable.
        """
        with actor_context(Actor.from_json(self._bulk.actor)):
            try:
                self._release(pause_s=self._apply_slices(until))
            except BulkLeaseLost:
                # After a cancellation the lease is still ours, and what was applied is counted. Without it, nothing is.
                self._store()
                self._release()
            except (BrokerUnavailable, ConfigurationUnavailable):
                self._store()
                self._release(pause_s=1)
                raise
            except RunqyError as error:
                self._end(_State.FAILED, error=error.detail)

    def _apply_slices(self, until: float) -> int:
        """Return how many seconds to wait before the next slice. Raise BulkLeaseLost."""
        while True:
            # Checked before each slice: the user may lose the permission while the bulk action runs.
            if not may_continue(self._bulk):
                self._end(_State.FAILED, error=_NOT_PERMITTED)
                return 0
            if self._bulk.cursor == _END:
                self._end(_State.FINISHED)
                return 0
            self._apply_slice()
            if self._bulk.full_queue:
                return FULL_QUEUE_RETRY_S
            if clock.monotonic_s() >= until:
                return 0

    def _apply_slice(self) -> None:
        """Apply the action to the tasks that come next. Raise BulkLeaseLost."""
        is_repeated = self._bulk.slice_began_s is not None
        if not is_repeated:
            self._update(slice_began_s=self._broker.now_s())
        upcoming = find_next_slice(self._broker, self._bulk, self._query)
        found = self._broker.run(read_states(upcoming.tasks)) if upcoming.tasks else []
        states = dict(zip(upcoming.tasks, found, strict=True))
        may_copy = self._action is TaskAction.RUN and self._query.state is None
        gone = [task for task, state in states.items() if state is None and may_copy]
        # Copies come first: if a queue has no room for them, the slice is applied again from its beginning.
        if full_queue := self._add_copies(gone):
            self._update(full_queue=full_queue, slice_began_s=None)
            return
        kept = [task for task in states if task not in gone]
        self._apply_in_redis(self._without_changed(kept) if is_repeated else kept, states)
        self._update(cursor=_END if upcoming.is_last else upcoming.cursor, full_queue="", slice_began_s=None)

    def _without_changed(self, tasks: Sequence[TaskLocation]) -> list[TaskLocation]:
        # A killed process may have changed the tasks whose state is not older than the request. Some times are known to
        # the second only, so tasks of the same second are left alone too.
        records = self._broker.run(read_tasks(tasks)) if tasks else []
        since = [0 if record is None else state_since_ns(record) for record in records]
        requested_ns = self._bulk.requested_s * 10**9
        return [task for task, at_ns in zip(tasks, since, strict=True) if at_ns is not None and at_ns < requested_ns]

    def _apply_in_redis(self, tasks: Sequence[TaskLocation], states: States) -> None:
        """Apply the action to the tasks themselves, not to copies. Raise BulkLeaseLost, BrokerUnavailable."""
        matching = select_still_matching(self._bulk, self._query, {task: states[task] for task in tasks})
        groups: defaultdict[tuple[str, TaskState | None], list[str]] = defaultdict(list)
        for queue, task_id in tasks:
            groups[queue, states[queue, task_id]].append(task_id)
        for (queue, state), task_ids in groups.items():
            self._update()  # extends the lease before each call to Redis
            if state is not None:
                self._apply_in_state(queue, state, task_ids, matching)
            elif self._action is TaskAction.DELETE and self._query.state is None:
                self._delete_runs(queue, task_ids)
                self._note(_Outcome.DONE, queue, *task_ids)
            else:
                self._note(_Outcome.SKIPPED, queue, *task_ids, note="not found: deleted or expired")

    def _apply_in_state(self, queue: str, state: TaskState, task_ids: list[str], matching: set[TaskLocation]) -> None:
        due = [task_id for task_id in task_ids if (queue, task_id) in matching]
        done = {*apply_in_state(self._broker, self._action, queue, state, due)} if due else set()
        has_ended_again = self._query.state is None and state.is_final
        other = "it has ended again since, or its run was deleted" if has_ended_again else f"it is {state}"
        changed = "changed since, or another task holds its unique key"
        self._delete_runs(queue, done)
        self._note(_Outcome.DONE, queue, *done)
        for task_id in task_ids:
            if task_id not in done:
                self._note(_Outcome.SKIPPED, queue, task_id, note=changed if task_id in due else other)

    def _delete_runs(self, queue: str, task_ids: Iterable[str]) -> None:
        if self._query.state is None and self._action is TaskAction.DELETE:
            # The rollups keep their counts.
            TaskRun.objects.filter(redis_queue=queue, task_id__in=task_ids).delete()

    def _add_copies(self, tasks: Sequence[TaskLocation]) -> str:
        """Enqueue copies of the tasks that Redis no longer has, until a queue is full; return that queue, or "".

        Raise BulkLeaseLost, BrokerUnavailable.
        """
        refused = []  # counted at the end: a slice whose queue is full is applied again
        for start in range(0, len(tasks), _COPIES_PER_STEP):
            until_s = self._broker.now_s() + LEASE_S - 1  # before the end of the lease, which is extended now
            self._update()
            step = tasks[start : start + _COPIES_PER_STEP]
            payloads, earlier = find_stored_payloads(step), _find_copies(step)
            for task in step:
                copy_id = str(uuid.uuid5(self._bulk.copy_namespace, "\0".join(task)))
                if earlier.get(task) == copy_id:
                    continue  # counted before the slice was applied again
                try:
                    note = self._add_copy(task, payloads.get(task), copy_id, has_run=task in earlier, until_s=until_s)
                except QueueFull:
                    return task[0]
                except EnqueuedTooLate:
                    raise BulkLeaseLost from None
                if note is None:
                    self._note(_Outcome.DONE, task[0], task[1], copy_id=copy_id)
                else:
                    refused.append((task, note))
        for (queue, task_id), (outcome, text) in refused:
            self._note(outcome, queue, task_id, note=text)
        return ""

    def _add_copy(
        self, task: TaskLocation, payload: bytes | None, copy_id: str, *, has_run: bool, until_s: int
    ) -> tuple[BulkAction.Outcome, str] | None:
        """Enqueue a copy of a task. Return None if it was enqueued, else the outcome and the reason.

        Raise QueueFull, BrokerUnavailable, ConfigurationUnavailable, EnqueuedTooLate.
        """
        if has_run:
            return _Outcome.SKIPPED, "it has run again already, as a new task"
        if self._broker.now_s() > (self._bulk.slice_began_s or 0) + IDEMPOTENCY_TTL_S - LEASE_S:
            # After so long an interruption Redis no longer knows whether the copy was enqueued.
            return _Outcome.SKIPPED, "interrupted: it may have run again"
        if payload is None:
            return _Outcome.FAILED, "its payload was not kept in full"
        copy = NewTask.requested(id=copy_id, queue=task[0], payload=payload)
        try:
            with request_id_context(f"bulk-action-{self._bulk.pk}"):
                add_copy(self._broker, copy, until_s=until_s)
        except (QueueFull, BrokerUnavailable, ConfigurationUnavailable):
            raise
        except RunqyError as error:
            return _Outcome.FAILED, error.detail[:200]
        return None

    def _note(self, outcome: BulkAction.Outcome, queue: str, *task_ids: str, note: str = "", copy_id: str = "") -> None:
        for task_id in task_ids:
            self._handled.append(HandledTask(queue=queue, id=task_id, outcome=outcome, note=note, copy_id=copy_id))

    def _end(self, state: BulkAction.State, *, error: str = "") -> None:
        """End the bulk action. Recorded in the audit. Raise BulkLeaseLost."""
        with transaction.atomic():
            self._update(state=state, error=error, ended_at=timezone.now(), full_queue="")
            bulk = BulkAction.objects.get(pk=self._bulk.pk)
            changes: Changes = {
                "state": (_State.RUNNING.value, state.value),
                "done": (None, bulk.done),
                "skipped": (None, bulk.skipped),
                "failed": (None, bulk.failed),
            }
            record(action=f"bulk_action.{state}", object_kind=AUDIT_KIND, object_name=str(bulk.pk), changes=changes)

    def _release(self, *, pause_s: int = 0) -> None:
        # `leased_until` without a lease is a pause: no process leases the bulk action before it ends.
        until = timezone.now() + timedelta(seconds=pause_s)
        BulkAction.objects.filter(pk=self._bulk.pk, lease=self._token).update(lease="", leased_until=until)

    def _update(self, **values: object) -> None:
        """Store what was handled, and extend the lease. Raise BulkLeaseLost if it is lost, or the bulk action has
        ended.
        """
        if not self._store(BulkAction.objects.filter(state=_State.RUNNING), leased_until=_lease_end(), **values):
            raise BulkLeaseLost
        for name, value in values.items():
            setattr(self._bulk, name, value)

    def _store(self, rows: QuerySet[BulkAction] | None = None, **values: object) -> bool:
        """Count what was handled, and link the copies. Without the lease, store nothing and return False."""
        own = (BulkAction.objects.all() if rows is None else rows).filter(pk=self._bulk.pk, lease=self._token)
        handled, counts = self._handled, Counter(each.outcome for each in self._handled)
        new = [
            {"queue": each.queue, "id": replace_nul(each.id), "outcome": each.outcome.value, "note": each.note}
            for each in handled
            if each.note
        ]
        problems = [*self._bulk.problems, *new][-MAX_PROBLEMS:]
        with transaction.atomic():
            is_stored = own.update(
                done=F("done") + counts[_Outcome.DONE],
                skipped=F("skipped") + counts[_Outcome.SKIPPED],
                failed=F("failed") + counts[_Outcome.FAILED],
                problems=problems,
                **values,
            )
            if not is_stored:
                return False
            copies = [
                TaskCopy(
                    bulk_action=self._bulk,
                    original_queue=each.queue,
                    original_id=each.id,
                    copy_queue=each.queue,
                    copy_id=each.copy_id,
                )
                for each in handled
                if each.copy_id
            ]
            TaskCopy.objects.bulk_create(copies)
        self._bulk.problems, self._handled = problems, []
        with suppress(BrokerUnavailable):  # Redis then keeps the records of these ids for a day
            for queue in {copy.copy_queue for copy in copies}:
                ids = [copy.copy_id for copy in copies if copy.copy_queue == queue]
                self._broker.run(forget_enqueued_ids(queue, ids))
        return True


def _find_copies(tasks: Sequence[TaskLocation]) -> dict[TaskLocation, str]:
    """Return the ids of the unedited copies of tasks."""
    found = TaskCopy.objects.filter(original_id__in=[task_id for _, task_id in tasks], is_edited=False)
    return {(copy.original_queue, copy.original_id): copy.copy_id for copy in found}


def _find_free() -> QuerySet[BulkAction]:
    is_free = Q(leased_until=None) | Q(leased_until__lte=timezone.now())
    return BulkAction.objects.filter(is_free, state__in=BulkAction.OPEN_STATES)


def _lease_end() -> datetime:
    return timezone.now() + timedelta(seconds=LEASE_S)
