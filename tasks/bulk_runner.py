"""Applies bulk actions, slice by slice, under a lease.

The tasks of a slice are claimed in the database before the action is applied, and stay claimed when the process is
killed. The next one repeats the action only on tasks that have certainly not changed since the claim, and where a
repetition changes nothing.
"""

import secrets
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from itertools import islice

from django.db import transaction
from django.db.models import F, Q, QuerySet
from django.utils import timezone

from runqy import clock
from runqy.audit.actors import Actor, actor_context
from runqy.audit.changes import Changes
from runqy.audit.operations import record
from runqy.broker.broker import Broker
from runqy.broker.states import TaskState
from runqy.broker.tasks.enqueue import IDEMPOTENCY_TTL_S, EnqueuedTooLate, new_task_id
from runqy.broker.tasks.reader import TaskLocation, read_states, read_tasks
from runqy.broker.tasks.record import TaskRecord
from runqy.errors import BrokerUnavailable, ConfigurationUnavailable, QueueFull, RunqyError
from runqy.request_ids import request_id_context
from tasks.actions import TaskAction, apply_in_state
from tasks.bulk_actions import AUDIT_KIND, get_query, may_continue
from tasks.bulk_slices import Slice, find_next_slice, select_still_matching, state_since_ns
from tasks.copies import NewCopy, Original, add_copy, find_stored_payloads
from tasks.models import BulkAction, BulkActionItem, TaskCopy, TaskRun
from tasks.operations import forget_enqueued_ids
from tasks.task_browser import TaskQuery

LEASE_S = 30
TICK_S = 2.0
"""How long one tick takes at most, beside its last slice."""
FULL_QUEUE_RETRY_S = 5
KEEP_DAYS = 30
_COPIES_PER_STEP = 20
"""The lease is extended, and outcomes are stored, after this many copies."""
_END = "end"
"""The cursor of a bulk action whose last slice was claimed."""
_NOT_PERMITTED = "The user who requested it may no longer do this."
_NEW_STATES = {
    TaskAction.RUN: TaskState.PENDING,
    TaskAction.CANCEL: TaskState.ARCHIVED,
    TaskAction.ARCHIVE: TaskState.ARCHIVED,
}
_Outcome = BulkActionItem.Outcome
_State = BulkAction.State


class BulkLeaseLost(Exception):
    """The bulk action was cancelled, or another process has its lease."""


def run_bulk_actions(broker: Broker) -> None:
    """Continue the bulk actions that no process has leased, for TICK_S.

    Raise BrokerUnavailable, ConfigurationUnavailable.
    """
    until = clock.monotonic_s() + TICK_S
    for number in list(_find_free().order_by("id").values_list("pk", flat=True)[:100]):
        if clock.monotonic_s() >= until:
            return
        runner = BulkRunner.lease(number)
        if runner is not None:
            runner.run(broker, until=until)


def delete_old_bulk_actions(*, limit: int = 1_000) -> None:
    """Delete some of the bulk actions and links to copies that are older than KEEP_DAYS."""
    before = timezone.now() - timedelta(days=KEEP_DAYS)
    old = BulkAction.objects.filter(ended_at__lt=before)
    items = BulkActionItem.objects.filter(bulk_action__in=old).values_list("pk", flat=True)[:limit]
    if not BulkActionItem.objects.filter(pk__in=list(items)).delete()[0]:
        old.delete()
    copies = TaskCopy.objects.filter(created_at__lt=before).values_list("pk", flat=True)[:limit]
    TaskCopy.objects.filter(pk__in=list(copies)).delete()


class BulkRunner:
    """Applies one bulk action, which it has leased."""

    def __init__(self, bulk: BulkAction, token: str) -> None:
        self._bulk = bulk
        self._token = token
        self._query: TaskQuery = get_query(bulk)
        self._action = TaskAction(bulk.action)
        self._is_resuming = False
        """Whether the claimed tasks are those of a process that was killed."""

    @classmethod
    def lease(cls, number: int) -> "BulkRunner | None":
        """Lease a bulk action; return None if it has ended or another process has its lease."""
        token = secrets.token_hex(16)
        if not _find_free().filter(pk=number).update(lease=token, leased_until=_lease_end()):
            return None
        new = BulkAction.objects.filter(pk=number, state=_State.WAITING)
        new.update(state=_State.RUNNING, started_at=timezone.now())
        return cls(BulkAction.objects.get(pk=number), token)

    def run(self, broker: Broker, *, until: float) -> None:
        """Apply slices until a time, the end, or a full queue; an error that will not pass ends the bulk action.

        Raise BrokerUnavailable, ConfigurationUnavailable.
        """
        with actor_context(Actor.from_json(self._bulk.actor)):
            try:
                self._apply_slices(broker, until)
            except BulkLeaseLost:
                self._close_canceled()
            except (BrokerUnavailable, ConfigurationUnavailable):
                self._release(pause_s=1)
                raise

    def _apply_slices(self, broker: Broker, until: float) -> None:
        pause_s = 0
        try:
            while not pause_s and self._advance(broker):
                pause_s = FULL_QUEUE_RETRY_S if self._items(_Outcome.WAITING).exists() else 0
                if clock.monotonic_s() >= until:
                    break
        except (BrokerUnavailable, ConfigurationUnavailable):
            raise
        except RunqyError as error:
            self._end(_State.FAILED, error=error.detail)
        self._release(pause_s=pause_s)

    def _advance(self, broker: Broker) -> bool:
        """Continue with the tasks that come next; return False at the end of the bulk action."""
        if not may_continue(self._bulk):
            self._end(_State.FAILED, error=_NOT_PERMITTED)
            return False
        if claimed := list(self._items(_Outcome.CLAIMED)):
            self._is_resuming = True
            self._apply(broker, self._review_interrupted(broker, claimed))
            self._is_resuming = False
        elif waiting := list(self._items(_Outcome.WAITING)):
            self._apply(broker, self._claim_again(broker, waiting))
        elif self._bulk.cursor == _END:
            self._end(_State.FINISHED)
            return False
        else:
            self._apply(broker, self._claim(broker, find_next_slice(broker, self._bulk, self._query)))
        return True

    def _review_interrupted(self, broker: Broker, items: Sequence[BulkActionItem]) -> list[BulkActionItem]:
        """Return the tasks, of those that a killed process had claimed, on which the action may be repeated."""
        records = broker.run(read_tasks([_location_of(item) for item in items]))
        repeatable = []
        for item, found in zip(items, records, strict=True):
            if self._is_repeatable(broker, item, found):
                repeatable.append(item)
            elif found is not None and found.state is _NEW_STATES.get(self._action):
                item.outcome = _Outcome.DONE
            else:
                _skip(item, "interrupted: the action may have been applied")
        self._store_outcomes(items)
        return repeatable

    def _is_repeatable(self, broker: Broker, item: BulkActionItem, task: TaskRecord | None) -> bool:
        """Return whether the action was certainly not applied to a claimed task, or applying it twice is harmless."""
        if item.copy_id:
            return broker.now_s() < self._bulk.claimed_s + IDEMPOTENCY_TTL_S
        if task is None:
            return self._action is TaskAction.DELETE
        since_ns = state_since_ns(task)
        return since_ns is not None and since_ns // 10**9 < self._bulk.claimed_s

    def _claim(self, broker: Broker, upcoming: Slice) -> list[BulkActionItem]:
        """Store the tasks of a slice that were not claimed before, and move the cursor. Raise BulkLeaseLost."""
        locations = list(dict.fromkeys(upcoming.tasks))
        missing = self._find_missing(broker, locations)
        cursor, claimed_s = _END if upcoming.is_last else upcoming.cursor, broker.now_s()
        with transaction.atomic():
            self._update(cursor=cursor, claimed_s=claimed_s, leased_until=_lease_end())
            task_ids = [task_id for _, task_id in locations]
            known = {*self._bulk.items.filter(task_id__in=task_ids).values_list("redis_queue", "task_id")}
            items = [
                BulkActionItem(
                    bulk_action=self._bulk,
                    redis_queue=queue,
                    task_id=task_id,
                    copy_id=new_task_id() if (queue, task_id) in missing else "",
                )
                for queue, task_id in locations
                if (queue, task_id) not in known
            ]
            BulkActionItem.objects.bulk_create(items)
        self._bulk.cursor, self._bulk.claimed_s = cursor, claimed_s
        return items

    def _claim_again(self, broker: Broker, items: Sequence[BulkActionItem]) -> Sequence[BulkActionItem]:
        """Claim tasks that waited because their queue was full. Raise BulkLeaseLost."""
        claimed_s = broker.now_s()
        with transaction.atomic():
            self._update(claimed_s=claimed_s, leased_until=_lease_end())
            self._items(_Outcome.WAITING).update(outcome=_Outcome.CLAIMED)
        self._bulk.claimed_s = claimed_s
        for item in items:
            item.outcome = _Outcome.CLAIMED
        return items

    def _find_missing(self, broker: Broker, locations: Sequence[TaskLocation]) -> set[TaskLocation]:
        """Return the tasks that are to run again as copies, because Redis no longer has them."""
        if self._action is not TaskAction.RUN or self._query.state is not None or not locations:
            return set()
        states = broker.run(read_states(locations))
        return {location for location, state in zip(locations, states, strict=True) if state is None}

    def _apply(self, broker: Broker, items: Sequence[BulkActionItem]) -> None:
        """Apply the action to claimed tasks, and store the outcomes. Raise BulkLeaseLost, BrokerUnavailable."""
        if not items:
            return
        locations = [_location_of(item) for item in items]
        states = dict(zip(locations, broker.run(read_states(locations)), strict=True))
        matching = select_still_matching(self._bulk, self._query, states)
        groups: defaultdict[tuple[str, TaskState | None], list[BulkActionItem]] = defaultdict(list)
        for item in items:
            groups[item.redis_queue, states[_location_of(item)]].append(item)
        for (queue, state), members in groups.items():
            self._extend_lease()
            if state is None:
                self._apply_to_missing(broker, queue, members)
            else:
                self._apply_in_state(broker, queue, state, members, matching)
            self._store_outcomes(members)

    def _apply_in_state(
        self,
        broker: Broker,
        queue: str,
        state: TaskState,
        items: Sequence[BulkActionItem],
        matching: Collection[TaskLocation],
    ) -> None:
        """Apply the action to those tasks of a Redis queue that are in a state and still match."""
        due = [item.task_id for item in items if _location_of(item) in matching and not item.copy_id]
        other = (
            "it has ended again since, or its run was deleted"
            if self._query.state is None and state.is_final
            else f"it is {state}"
        )
        done = {*apply_in_state(broker, self._action, queue, state, due)} if due else set()
        for item in items:
            if item.task_id in done:
                item.outcome = _Outcome.DONE
            else:
                changed = "changed since, or another task holds its unique key"
                _skip(item, changed if item.task_id in due else other)
        self._delete_runs(queue, done)

    def _apply_to_missing(self, broker: Broker, queue: str, items: Sequence[BulkActionItem]) -> None:
        """Apply the action to tasks that are no longer in Redis: the history has their runs and payloads."""
        if self._action is TaskAction.DELETE and (self._query.state is None or self._is_resuming):
            self._delete_runs(queue, {item.task_id for item in items})
            for item in items:
                item.outcome = _Outcome.DONE
            return
        for item in items:
            if not item.copy_id:
                _skip(item, "not found: deleted or expired")
        self._add_copies(broker, queue, [item for item in items if item.copy_id])

    def _add_copies(self, broker: Broker, queue: str, items: Sequence[BulkActionItem]) -> None:
        """Enqueue a copy of each task; those that find the queue full wait. Stores outcomes on the way."""
        task_ids = [item.task_id for item in items]
        payloads = find_stored_payloads(queue, task_ids)
        earlier = TaskCopy.objects.filter(original_queue=queue, original_id__in=task_ids, is_edited=False)
        copies = dict(earlier.values_list("original_id", "copy_id"))
        rest = iter(items)
        while step := list(islice(rest, _COPIES_PER_STEP)):
            until_s = broker.now_s() + LEASE_S - 1  # before the lease that is extended now ends
            self._extend_lease()
            try:
                for item in step:
                    if copies.get(item.task_id, item.copy_id) != item.copy_id:
                        _skip(item, "it has run again already, as a new task")
                    else:
                        self._add_copy(broker, item, payloads.get(item.task_id), until_s=until_s)
            except EnqueuedTooLate:
                raise BulkLeaseLost from None
            except QueueFull:
                for item in (*step, *rest):
                    if item.outcome == _Outcome.CLAIMED:
                        item.outcome = _Outcome.WAITING
            finally:
                self._store_outcomes(step)
            done = [item.copy_id for item in step if item.outcome == _Outcome.DONE]
            broker.run(forget_enqueued_ids(queue, done))

    def _add_copy(self, broker: Broker, item: BulkActionItem, payload: bytes | None, *, until_s: int) -> None:
        """Enqueue a copy of a task. Raise QueueFull, BrokerUnavailable, ConfigurationUnavailable, EnqueuedTooLate."""
        if payload is None:
            item.outcome, item.note = _Outcome.FAILED, "its payload was not kept in full"
            return
        try:
            original = Original(redis_queue=item.redis_queue, id=item.task_id)
            with request_id_context(f"bulk-action-{item.bulk_action_id}"):
                add_copy(broker, NewCopy(original=original, id=item.copy_id, payload=payload), until_s=until_s)
        except (QueueFull, BrokerUnavailable, ConfigurationUnavailable):
            raise
        except RunqyError as error:
            item.outcome, item.note = _Outcome.FAILED, error.detail[:200]
            return
        item.outcome = _Outcome.DONE

    def _delete_runs(self, queue: str, task_ids: set[str]) -> None:
        """Delete the runs of deleted tasks from the history, if they were found there; rollups keep their counts."""
        if self._query.state is None and self._action is TaskAction.DELETE:
            TaskRun.objects.filter(redis_queue=queue, task_id__in=task_ids).delete()

    def _store_outcomes(self, items: Sequence[BulkActionItem]) -> None:
        """Store outcomes of claimed tasks and links to copies, also once it was cancelled. Raise BulkLeaseLost."""
        decided = [item for item in items if item.outcome != _Outcome.CLAIMED]
        with transaction.atomic():
            if not BulkAction.objects.filter(pk=self._bulk.pk, lease=self._token).update(leased_until=_lease_end()):
                raise BulkLeaseLost
            claimed = self._items(_Outcome.CLAIMED).filter(pk__in=[item.pk for item in decided])
            open_ids = set(claimed.values_list("pk", flat=True))
            stored = [item for item in decided if item.pk in open_ids]
            BulkActionItem.objects.bulk_update(stored, ["outcome", "note"])
            TaskCopy.objects.bulk_create(
                TaskCopy(
                    original_queue=item.redis_queue,
                    original_id=item.task_id,
                    copy_queue=item.redis_queue,
                    copy_id=item.copy_id,
                )
                for item in stored
                if item.copy_id and item.outcome == _Outcome.DONE
            )
            self._count(Counter(item.outcome for item in stored))

    def _close_canceled(self) -> None:
        """Store that the action is not applied to the rest of the tasks of a bulk action that was cancelled."""
        with transaction.atomic():
            own = BulkAction.objects.filter(pk=self._bulk.pk, lease=self._token, state=_State.CANCELED)
            if own.update(lease="", leased_until=None):
                self._close_items("cancelled before the action was applied")

    def _close_items(self, note: str) -> None:
        """Skip the tasks that are claimed or waiting."""
        skipped = self._items(_Outcome.WAITING).update(outcome=_Outcome.SKIPPED, note=note)
        doubtful = "interrupted: the action may have been applied"
        skipped += self._items(_Outcome.CLAIMED).update(
            outcome=_Outcome.SKIPPED, note=doubtful if self._is_resuming else note
        )
        self._count(Counter({_Outcome.SKIPPED: skipped}))

    def _count(self, counts: Counter[str]) -> None:
        """Add to the counts of the bulk action."""
        BulkAction.objects.filter(pk=self._bulk.pk).update(
            done=F("done") + counts[_Outcome.DONE],
            skipped=F("skipped") + counts[_Outcome.SKIPPED],
            failed=F("failed") + counts[_Outcome.FAILED],
        )

    def _end(self, state: BulkAction.State, *, error: str = "") -> None:
        """End the bulk action, and record it in the audit. Raise BulkLeaseLost."""
        with transaction.atomic():
            self._update(state=state, error=error, ended_at=timezone.now(), lease="", leased_until=None)
            self._close_items("the bulk action failed: the action may have been applied")
            bulk = BulkAction.objects.get(pk=self._bulk.pk)
            changes: Changes = {
                "state": (_State.RUNNING.value, state.value),
                "done": (None, bulk.done),
                "skipped": (None, bulk.skipped),
                "failed": (None, bulk.failed),
            }
            record(action=f"bulk_action.{state}", object_kind=AUDIT_KIND, object_name=str(bulk.pk), changes=changes)

    def _extend_lease(self) -> None:
        """Raise BulkLeaseLost if the bulk action was cancelled, or another process has its lease."""
        self._update(leased_until=_lease_end())

    def _release(self, *, pause_s: int = 0) -> None:
        """Give the lease back; no process leases the bulk action for `pause_s`.

        A pause marks a bulk action with tasks that are claimed or waiting: if it is cancelled, they are closed.
        """
        until = timezone.now() + timedelta(seconds=pause_s) if pause_s else None
        BulkAction.objects.filter(pk=self._bulk.pk, lease=self._token).update(lease="", leased_until=until)

    def _update(self, **values: object) -> None:
        """Change the row, unless it was cancelled or leased by another process. Raise BulkLeaseLost."""
        own = BulkAction.objects.filter(pk=self._bulk.pk, lease=self._token, state=_State.RUNNING)
        if not own.update(**values):
            raise BulkLeaseLost

    def _items(self, outcome: BulkActionItem.Outcome) -> QuerySet[BulkActionItem]:
        return self._bulk.items.filter(outcome=outcome).order_by("id")


def _find_free() -> QuerySet[BulkAction]:
    """Return the bulk actions that no process has leased: open ones, and cancelled ones with tasks to be closed."""
    is_free = Q(leased_until=None) | Q(leased_until__lte=timezone.now())
    is_left = Q(state=_State.CANCELED, leased_until__isnull=False)
    return BulkAction.objects.filter(is_free, Q(state__in=BulkAction.OPEN_STATES) | is_left)


def _location_of(item: BulkActionItem) -> TaskLocation:
    return item.redis_queue, item.task_id


def _skip(item: BulkActionItem, note: str) -> None:
    item.outcome, item.note = _Outcome.SKIPPED, note


def _lease_end() -> datetime:
    return timezone.now() + timedelta(seconds=LEASE_S)
