"""The duty that applies bulk actions, slice by slice, under a lease.

A slice that was interrupted, even by kill -9, is found and applied again. That is safe: tasks that changed since the
request are left alone, the id of a copy follows from the bulk action and its original, and Redis enqueues an id once.
The counts leave out what a killed process did in its slice. See ADR 0031.
"""

import secrets
import uuid
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta

from django.db import transaction
from django.db.models import F, Q, QuerySet
from django.utils import timezone

from runqy import clock
from runqy.audit.actors import Actor, actor_context
from runqy.audit.operations import Changes, record
from runqy.broker.broker import Broker
from runqy.broker.replies import replace_nul
from runqy.broker.states import TaskState
from runqy.broker.tasks.enqueue import NewTask
from runqy.broker.tasks.reader import TaskLocation, read_states, read_tasks
from runqy.errors import BrokerUnavailable, ConfigurationUnavailable, QueueFull, RunqyError
from runqy.maintenance.failed_rows import RowFailures
from tasks.actions import TaskAction, apply_in_state
from tasks.bulk_actions import (
    AUDIT_KIND,
    find_next_slice,
    get_query,
    may_continue,
    select_still_matching,
    state_since_ns,
)
from tasks.copies import find_stored_payloads
from tasks.intents import Intent, IntentState, enqueue_intents
from tasks.models import BulkAction, TaskCopy, TaskRun
from tasks.operations import forget_enqueued_ids

LEASE_S = 30
"""It is extended before each step of a slice, which takes a second or so."""
COPIES_PER_STEP = 20
TICK_S = 2.0
"""The time that one tick takes at most, apart from its last slice."""
FULL_QUEUE_RETRY_S = 5
KEEP_DAYS = 30
MAX_PROBLEMS = 20
_NOT_PERMITTED = "The user or API key that requested it may no longer do this."
_failures = RowFailures("bulk action")
_State = BulkAction.State
_Outcome = BulkAction.Outcome


def run_bulk_actions(broker: Broker) -> bool:
    """Continue the bulk actions that no process has leased, for TICK_S. Return whether there were any.

    Raise BrokerUnavailable, ConfigurationUnavailable.
    """
    until = clock.monotonic_s() + TICK_S
    if not _find_free().exists():
        return False
    _failures.begin_pass()
    free = _failures.exclude_paused(_find_free())
    for number in list(free.order_by("id").values_list("pk", flat=True)[:100]):
        if clock.monotonic_s() >= until:
            break
        with _failures.isolate(number):
            runner = BulkRunner.lease(broker, number)
            if runner is not None:
                runner.run(until=until)
    return True


def find_old_copies() -> QuerySet[TaskCopy]:
    """Return links between tasks and their copies that are older than KEEP_DAYS."""
    return TaskCopy.objects.filter(created_at__lt=timezone.now() - timedelta(days=KEEP_DAYS))


def find_old_bulk_actions() -> QuerySet[BulkAction]:
    """Return bulk actions that ended more than KEEP_DAYS ago, once the links to their copies are deleted."""
    return BulkAction.objects.filter(ended_at__lt=timezone.now() - timedelta(days=KEEP_DAYS), copies=None)


class _LeaseLost(Exception):
    """Another process may have the bulk action, or it was cancelled."""


class BulkRunner:
    """Applies one bulk action, whose lease it holds."""

    def __init__(self, broker: Broker, bulk: BulkAction, token: str) -> None:
        self._broker = broker
        self._bulk = bulk
        self._own = BulkAction.objects.filter(pk=bulk.pk, lease=token)
        self._running = self._own.filter(state=_State.RUNNING)
        self._query = get_query(bulk)
        self._action = TaskAction(bulk.action)
        self._is_repeated = False
        self._lease_ends_s = 0
        # What happened to tasks and is not yet stored.
        self._counts: Counter[BulkAction.Outcome] = Counter()
        self._problems: list[dict[str, str]] = []
        self._copies: list[TaskCopy] = []
        self._unknown_at = bulk.unknown_at

    @classmethod
    def lease(cls, broker: Broker, number: int) -> "BulkRunner | None":
        """Lease a bulk action; return None if it has ended or another process has its lease."""
        token, now = secrets.token_hex(16), timezone.now()
        if not _find_free().filter(pk=number).update(lease=token, leased_until=now + timedelta(seconds=LEASE_S)):
            return None
        # A bulk action that runs already keeps the time at which it started.
        BulkAction.objects.filter(pk=number, state=_State.WAITING).update(state=_State.RUNNING, started_at=now)
        return cls(broker, BulkAction.objects.get(pk=number), token)

    def run(self, *, until: float) -> None:
        """Apply slices until a time, the end, a full queue or a cancellation. Other errors end the bulk action.

        Raise BrokerUnavailable, ConfigurationUnavailable.
        """
        pause_s = LEASE_S  # after an error that nobody expects
        with actor_context(Actor.from_json(self._bulk.actor)):
            try:
                pause_s = self._apply_slices(until)
            except _LeaseLost:
                pause_s = 0  # the lease has ended, and another process may have it
            except (BrokerUnavailable, ConfigurationUnavailable):
                pause_s = 1
                raise
            except RunqyError as error:
                self._end(_State.FAILED, error=error.detail)
            finally:
                # Also of a bulk action that was cancelled meanwhile: what was applied is counted.
                # `leased_until` without a lease is a pause: no process leases the bulk action before it ends.
                self._store(self._own, lease="", leased_until=timezone.now() + timedelta(seconds=pause_s))

    def _apply_slices(self, until: float) -> int:
        """Return how many seconds to wait before the next slice. Raise _LeaseLost."""
        while True:
            self._is_repeated = self._bulk.slice_began_s is not None
            self._extend_lease(slice_began_s=self._bulk.slice_began_s or self._broker.now_s())
            # Checked before each slice: a user may lose the permission, and a key be revoked, while the action runs.
            if not may_continue(self._bulk):
                self._end(_State.FAILED, error=_NOT_PERMITTED)
                break
            self._apply_slice()
            if self._bulk.full_queue:
                return FULL_QUEUE_RETRY_S
            if clock.monotonic_s() >= until:
                break
        return 0

    def _extend_lease(self, **values: object) -> None:
        """Store what was handled, and values. Raise _LeaseLost without the lease, or if the bulk action has ended."""
        self._lease_ends_s = self._broker.now_s() + LEASE_S - 1
        leased_until = timezone.now() + timedelta(seconds=LEASE_S)
        if not self._store(self._running, leased_until=leased_until, **values):
            raise _LeaseLost

    def _apply_slice(self) -> None:
        """Apply the action to the tasks that come next, and store what happened. Raise _LeaseLost."""
        upcoming = find_next_slice(self._broker, self._bulk, self._query)
        found = self._broker.run(read_states(upcoming.tasks)) if upcoming.tasks else []
        states = dict(zip(upcoming.tasks, found, strict=True))
        may_copy = self._action is TaskAction.RUN and self._query.state is None
        gone = [task for task, state in states.items() if state is None and may_copy]
        # Copies come first: if a queue has no room for them, the slice is applied again from its beginning.
        if full_queue := self._add_copies(gone):
            self._store(self._running, full_queue=full_queue, slice_began_s=None)
            return
        kept = [task for task in states if task not in gone]
        self._apply_in_redis(self._without_changed(kept) if self._is_repeated else kept, states)
        if upcoming.is_last:
            self._end(_State.FINISHED)
        else:
            self._store(self._running, cursor=upcoming.cursor, full_queue="", slice_began_s=None)

    def _without_changed(self, tasks: Sequence[TaskLocation]) -> list[TaskLocation]:
        # A killed process may have changed the tasks whose state is not older than the request. Some times are known to
        # the second only, so tasks of the same second are left alone too.
        records = self._broker.run(read_tasks(self._broker, tasks)) if tasks else []
        since = [0 if record is None else state_since_ns(record) for record in records]
        requested_ns = self._bulk.requested_s * 10**9
        return [task for task, at_ns in zip(tasks, since, strict=True) if at_ns is not None and at_ns < requested_ns]

    def _apply_in_redis(self, tasks: Sequence[TaskLocation], states: Mapping[TaskLocation, TaskState | None]) -> None:
        """Apply the action to the tasks themselves, not to copies. Raise BrokerUnavailable, _LeaseLost."""
        matching = select_still_matching(self._bulk, self._query, {task: states[task] for task in tasks})
        deletes_runs = self._action is TaskAction.DELETE and self._query.state is None
        groups: defaultdict[tuple[str, TaskState | None], list[str]] = defaultdict(list)
        for queue, task_id in tasks:
            groups[queue, states[queue, task_id]].append(task_id)
        for (queue, state), task_ids in groups.items():
            # A process that was stopped meanwhile must not act after its successor.
            self._extend_lease()
            due = [task_id for task_id in task_ids if (queue, task_id) in matching]
            if state is None:
                done = {*task_ids} if deletes_runs else set()
            else:
                done = {*apply_in_state(self._broker, self._action, queue, state, due)} if due else set()
            if deletes_runs:
                # The rollups keep their counts.
                TaskRun.objects.filter(redis_queue=queue, task_id__in=done).delete()
            for task_id in task_ids:
                if task_id in done:
                    self._count(_Outcome.DONE, (queue, task_id))
                else:
                    self._count(_Outcome.SKIPPED, (queue, task_id), self._why_skipped(state, task_id in due))

    def _why_skipped(self, state: TaskState | None, was_due: bool) -> str:
        if state is None:
            return "not found: deleted or expired"
        if was_due:
            return "changed since, or another task holds its unique key"
        has_ended_again = self._query.state is None and state.is_final
        return "it has ended again since, or its run was deleted" if has_ended_again else f"it is {state}"

    def _add_copies(self, tasks: Sequence[TaskLocation]) -> str:
        """Enqueue copies of the tasks that Redis no longer has, until a queue is full; return that queue, or "".

        Raise BrokerUnavailable, ConfigurationUnavailable, _LeaseLost.
        """
        refused: list[tuple[TaskLocation, BulkAction.Outcome, str]] = []
        payloads, earlier = find_stored_payloads(tasks), _find_copies(tasks)
        wanted: dict[TaskLocation, tuple[str, NewTask]] = {}
        for task in tasks:
            copy_id, stored = str(uuid.uuid5(self._bulk.copy_namespace, "\0".join(task))), payloads.get(task)
            if earlier.get(task) == copy_id:
                continue  # counted before the slice was applied again
            if task in earlier:
                refused.append((task, _Outcome.SKIPPED, "it has run again already, as a new task"))
            elif stored is None:
                refused.append((task, _Outcome.FAILED, "its payload was not kept in full"))
            else:
                wanted[task] = stored.queue, NewTask.requested(id=copy_id, queue=task[0], payload=stored.content)
        names = list(wanted)
        for start in range(0, len(names), COPIES_PER_STEP):
            refused_now, full_queue = self._add_step(
                {task: wanted[task] for task in names[start : start + COPIES_PER_STEP]}
            )
            if full_queue:
                return full_queue
            refused += refused_now
        # Counted at the end: a slice whose queue is full is applied again.
        for task, outcome, reason in refused:
            self._count(outcome, task, reason)
        return ""

    def _add_step(
        self, copies: Mapping[TaskLocation, tuple[str, NewTask]]
    ) -> tuple[list[tuple[TaskLocation, BulkAction.Outcome, str]], str]:
        """Enqueue copies, each given with the name of its queue. Return those that were refused, with outcome and
        reason, and a queue that is full, or "".

        Raise BrokerUnavailable, ConfigurationUnavailable, _LeaseLost.
        """
        self._extend_lease()
        # Not after the lease: another process may have applied the slice, and Redis have forgotten the ids.
        requested_s, until_s, name = self._bulk.slice_began_s or 0, self._lease_ends_s, f"bulk-action-{self._bulk.pk}"
        intents = [
            Intent(task=copy, requested_s=requested_s, until_s=until_s, request_id=name, parents=(queue,))
            for queue, copy in copies.values()
        ]
        refused, full_queue = [], ""
        for task, intent, outcome in zip(copies, intents, enqueue_intents(self._broker, intents), strict=True):
            match outcome.state, outcome.error:
                case IntentState.ENQUEUED, _:
                    self._count(_Outcome.DONE, task)
                    self._copies.append(self._link(task, intent.task.id))
                case IntentState.UNKNOWN, _:
                    self._unknown_at = timezone.now()
                    refused.append((task, _Outcome.SKIPPED, "interrupted: it may have run again"))
                case _, QueueFull():
                    full_queue = task[0]
                case _, BrokerUnavailable() as error:
                    raise error
                case _, None:
                    raise _LeaseLost
                case _:
                    refused.append((task, _Outcome.FAILED, outcome.reason[:200]))
        return refused, full_queue

    def _link(self, task: TaskLocation, copy_id: str) -> TaskCopy:
        queue, original_id = task
        return TaskCopy(
            bulk_action=self._bulk,
            original_queue=queue,
            original_id=original_id,
            copy_queue=queue,
            copy_id=copy_id,
        )

    def _count(self, outcome: BulkAction.Outcome, task: TaskLocation, reason: str = "") -> None:
        """Count a task, with the reason if the action was not applied."""
        self._counts[outcome] += 1
        if reason:
            queue, task_id = task
            self._problems.append(
                {"queue": queue, "id": replace_nul(task_id), "outcome": outcome.value, "reason": reason}
            )

    def _end(self, state: BulkAction.State, *, error: str = "") -> None:
        """End the bulk action, unless it was cancelled or the lease is lost. Recorded in the audit."""
        with transaction.atomic():
            if not self._store(self._running, state=state, error=error, ended_at=timezone.now(), full_queue=""):
                return
            bulk = BulkAction.objects.get(pk=self._bulk.pk)
            changes: Changes = {
                "state": (_State.RUNNING.value, state.value),
                "done": (None, bulk.done),
                "skipped": (None, bulk.skipped),
                "failed": (None, bulk.failed),
            }
            record(action=f"bulk_action.{state}", object_kind=AUDIT_KIND, object_name=str(bulk.pk), changes=changes)

    def _store(self, own: QuerySet[BulkAction], **values: object) -> bool:
        """Count what was handled, link the copies, and set the values. Store nothing and return False without a row."""
        copies, problems = self._copies, [*self._bulk.problems, *self._problems][-MAX_PROBLEMS:]
        with transaction.atomic():
            is_stored = own.update(
                done=F("done") + self._counts[_Outcome.DONE],
                skipped=F("skipped") + self._counts[_Outcome.SKIPPED],
                failed=F("failed") + self._counts[_Outcome.FAILED],
                problems=problems,
                unknown_at=self._unknown_at,
                **values,
            )
            if not is_stored:
                return False
            TaskCopy.objects.bulk_create(copies)
            transaction.on_commit(lambda: self._forget(copies))
        self._counts, self._problems, self._copies = Counter(), [], []
        for name, value in {**values, "problems": problems}.items():
            setattr(self._bulk, name, value)
        return True

    def _forget(self, copies: Sequence[TaskCopy]) -> None:
        with suppress(BrokerUnavailable):  # Redis then keeps the records of these ids for a day
            for queue in {copy.copy_queue for copy in copies}:
                ids = [copy.copy_id for copy in copies if copy.copy_queue == queue]
                self._broker.run(forget_enqueued_ids(queue, ids))


def _find_copies(tasks: Sequence[TaskLocation]) -> dict[TaskLocation, str]:
    """Return the ids of the unedited copies of tasks."""
    found = TaskCopy.objects.filter(original_id__in=[task_id for _, task_id in tasks], is_edited=False)
    return {(copy.original_queue, copy.original_id): copy.copy_id for copy in found}


def _find_free() -> QuerySet[BulkAction]:
    is_free = Q(leased_until=None) | Q(leased_until__lte=timezone.now())
    return BulkAction.objects.filter(is_free, state__in=BulkAction.OPEN_STATES)
