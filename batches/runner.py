"""Enqueue the members and callbacks of batches, cancel members, and find those that are lost. Any process may."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import TypeVar

import msgspec
import structlog
from django.db import transaction
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.db.models.functions import Length

from batches.models import Batch, CallbackState, Member, MemberState
from batches.progress import (
    Waiting,
    count_waiting,
    decode_task,
    describe_end,
    lock_batch,
    measure_callback,
    settle,
    sum_waiting,
)
from queues.queries import get_fresh_catalog
from runqy.broker.broker import Broker
from runqy.broker.streams.ends import Notify
from runqy.broker.tasks.cancel import cancel
from runqy.broker.tasks.enqueue import NewTask
from runqy.broker.tasks.reader import read_states
from runqy.core.formats.json_decoding import read_json
from runqy.errors import BrokerUnavailable
from runqy.maintenance.failed_rows import RowFailures
from runqy.redis_connection import get_broker
from tasks import payloads
from tasks.ends import EndsCollector
from tasks.intents import Intent, IntentOutcome, IntentState, enqueue_intents
from tasks.operations import forget_enqueued_ids

CHUNK = 500
"""Members that are enqueued, cancelled or deleted at once."""
CHUNK_BYTES = 4 << 20
"""A chunk ends before the member with which it would be larger."""
TURNS_MAX = 200
"""In one tick."""
BUSY = timedelta(seconds=15)
"""After this time another process takes a batch over."""
ATTEMPT_S = 10
"""Redis enqueues nothing of an attempt later: before another process takes the batch over."""
RENEWED_AFTER_S = 3600
"""How old the time of a member that is known not to be enqueued becomes, before it is replaced."""
RETRY = timedelta(seconds=5)
"""When members that could not be enqueued are tried again."""
KEPT = timedelta(days=7)
OPEN_FOR = timedelta(days=7)
"""How long a batch to which nothing is added stays open."""
BATCHES_MAX = 100
CHECKED = 2000
"""Members of a batch whose tasks are looked for in one search."""

log = structlog.get_logger(__name__)
_failures, _callback_failures = RowFailures("batch"), RowFailures("callback")
T = TypeVar("T")

_STATES = {
    IntentState.ENQUEUED: MemberState.ENQUEUED,
    IntentState.REFUSED: MemberState.REFUSED,
    IntentState.UNKNOWN: MemberState.UNKNOWN,
}


class BatchWork:
    """Enqueues members and callbacks, and cancels members. Owners take turns, then their batches, by chunks."""

    def __init__(self) -> None:
        # Whose turn was last.
        self._member_owner = self._callback_owner = ""
        # Until when a Redis queue accepts no more members of a batch, or no callbacks.
        self._full: dict[tuple[str, str], datetime] = {}
        self._full_for_callbacks: dict[str, datetime] = {}

    def run(self, broker: Broker) -> bool:
        """Do what is due, or a part of it. Return whether anything was.

        Raise BrokerUnavailable, ConfigurationUnavailable, DatabaseError.
        """
        due = Q(busy_until__lte=broker.now()) | Q(callback_state=CallbackState.WAITING)
        if not Batch.objects.filter(due).exists():
            return False
        _failures.begin_pass()
        _callback_failures.begin_pass()
        for _ in range(TURNS_MAX):
            now = broker.now()
            self._full = {key: until for key, until in self._full.items() if until > now}
            self._full_for_callbacks = {key: until for key, until in self._full_for_callbacks.items() if until > now}
            has_called = self._call_back(broker)
            if not self._run_batch(broker) and not has_called:
                break
        return True

    def _run_batch(self, broker: Broker) -> bool:
        """Give the next batch of the next owner its turn. Return whether there was one."""
        now = broker.now()
        due = _failures.exclude_paused(Batch.objects.filter(busy_until__lte=now))
        due = due.order_by("owner", "busy_until").only("name", "owner", "busy_until")
        batch = due.filter(owner__gt=self._member_owner).first() or due.first()
        if batch is None:
            return False
        self._member_owner = batch.owner
        with _failures.isolate(batch.pk, name=batch.name):
            self._run_chunk(broker, batch)
        return True

    def _run_chunk(self, broker: Broker, due: Batch) -> None:
        """Enqueue the next members of a batch that wait; without any, cancel some of one that is cancelled.

        Two transactions: on SQLite each waits for others that write, which may take seconds.
        """
        full = [redis_queue for owner, redis_queue in self._full if owner == due.pk]
        with transaction.atomic():
            # Before the members are read: Redis refuses what a process that was stopped in between sends later.
            now, until_s = broker.now(), broker.now_s() + ATTEMPT_S
            if not Batch.objects.filter(pk=due.pk, busy_until=due.busy_until).update(busy_until=now + BUSY):
                return
            batch = Batch.objects.defer("callback_request").get(pk=due.pk)
            members = _next_members(batch, full)
            # Committed before they are sent: from then on a task may be enqueued without a mark.
            _set_requested([member for member in members if not member.requested_s], until_s - ATTEMPT_S)
        try:
            found = _enqueue(broker, batch, members, until_s)
            is_idle = not members and not (batch.is_canceled and not full and _cancel_tasks(broker, batch))
        except BrokerUnavailable:
            # A claim is for processes that died. What Redis still gets of this attempt enqueues nothing twice: it knows
            # the ids for longer than ATTEMPT_S.
            Batch.objects.filter(pk=batch.pk, busy_until=now + BUSY).update(busy_until=due.busy_until)
            raise
        for redis_queue in found.delayed:
            self._full[batch.pk, redis_queue] = broker.now() + RETRY
        _mark(broker, batch, found, is_idle, bool(full))
        _set_requested(found.renewed, until_s - ATTEMPT_S)
        with suppress(BrokerUnavailable):  # Redis then keeps the records of these ids for a day
            broker.run_all([forget_enqueued_ids(queue, ids) for queue, ids in found.enqueued.items()])

    def _call_back(self, broker: Broker) -> bool:
        """Enqueue the next callbacks of the next owner that are due, each once. Return whether there were any."""
        due = Batch.objects.filter(callback_state=CallbackState.WAITING).order_by("owner", "created_at")
        due = _callback_failures.exclude_paused(due)
        due = due.exclude(callback_queue__in=list(self._full_for_callbacks))
        owners = due.values_list("owner", flat=True)
        owner = owners.filter(owner__gt=self._callback_owner).first()
        owner = owners.first() if owner is None else owner
        if owner is None:
            return False
        self._callback_owner = owner
        sizes = due.filter(owner=owner).values_list("pk", Length("callback_request"))
        found = list(due.filter(pk__in=_first_of(sizes[:BATCHES_MAX])).values_list("pk", "name"))
        call_back = partial(self._call_back_together, broker)
        _callback_failures.handle(found, call_back, describe=lambda row: (row[0], f"of batch {row[1]}", ""))
        return True

    def _call_back_together(self, broker: Broker, rows: Sequence[tuple[str, str]]) -> None:
        now_s, batches = broker.now_s(), list(Batch.objects.filter(pk__in=[batch_id for batch_id, _ in rows]))
        outcomes = enqueue_intents(broker, [_callback_intent(batch) for batch in batches])
        for batch, outcome in zip(batches, outcomes, strict=True):
            if outcome.state is IntentState.DELAYED:  # the others of this queue would be too
                self._full_for_callbacks[batch.callback_queue] = broker.now() + RETRY
            _mark_callback(batch, outcome, now_s)


def _next_members(batch: Batch, full_queues: Sequence[str]) -> list[Member]:
    """Return the next chunk of members that wait for other Redis queues than these."""
    waiting = batch.members.filter(state=MemberState.WAITING).exclude(redis_queue__in=full_queues).order_by("pk")
    sizes = waiting.values_list("pk", Length("request"))
    return list(waiting.filter(pk__in=_first_of(sizes[:CHUNK])))


def _first_of(sizes: Iterable[tuple[T, int | None]]) -> list[T]:
    """Return the keys of the first rows that are read at once; each is given with its size."""
    keys, total = list[T](), 0
    for key, size_bytes in sizes:
        total += size_bytes or 0
        if keys and total > CHUNK_BYTES:
            break
        keys.append(key)
    return keys


@dataclass(frozen=True, slots=True)
class _Enqueued:
    """What became of members."""

    marks: Mapping[tuple[str, str], Sequence[Member]]
    """By state and reason."""
    delayed: set[str]
    """The Redis queues that accept none now."""
    renewed: Sequence[Member]
    """What a full or disabled queue keeps waiting may wait for days. Other processes enqueue it until `until_s` at
    most, and Redis remembers that for a day."""
    enqueued: Mapping[str, Sequence[str]]
    """The ids by Redis queue."""


def _enqueue(broker: Broker, batch: Batch, members: Sequence[Member], until_s: int) -> _Enqueued:
    """Enqueue members until a time."""
    now_s = until_s - ATTEMPT_S
    intents = [
        Intent(
            task=_as_member(decode_task(member.request or b""), batch),
            owner=batch.pk,
            requested_s=member.requested_s,
            until_s=until_s,
            request_id=f"batch-{batch.pk}",
            parents=batch.queues,
            is_only_checked=batch.is_canceled,
        )
        for member in members
    ]
    outcomes = enqueue_intents(broker, intents)
    by_mark: defaultdict[tuple[str, str], list[Member]] = defaultdict(list)
    delayed = set[str]()
    for member, intent, outcome in zip(members, intents, outcomes, strict=True):
        state = _state_after(outcome, is_canceled=batch.is_canceled)
        if state == MemberState.REFUSED and _has_expired(intent.task, now_s):
            state = MemberState.EXPIRED
        if state == MemberState.WAITING:
            delayed.add(member.redis_queue)
        if state != MemberState.WAITING or outcome.reason[:300] != member.reason:
            by_mark[state, outcome.reason[:300]].append(member)
    absent = [member for member, outcome in zip(members, outcomes, strict=True) if outcome.is_absent]
    renewed = [member for member in absent if member.requested_s < now_s - RENEWED_AFTER_S]
    enqueued: defaultdict[str, list[str]] = defaultdict(list)
    for member, outcome in zip(members, outcomes, strict=True):
        if outcome.state is IntentState.ENQUEUED:
            enqueued[member.redis_queue].append(member.task_id)
    return _Enqueued(by_mark, delayed, renewed, enqueued)


def _set_requested(members: Sequence[Member], now_s: int) -> None:
    if members:
        waiting = Member.objects.filter(pk__in=[member.pk for member in members], state=MemberState.WAITING)
        waiting.update(requested_s=now_s)
    for member in members:
        member.requested_s = now_s


def _as_member(task: NewTask, batch: Batch) -> NewTask:
    notify = msgspec.structs.replace(task.notify or Notify(), batch=batch.pk)
    return msgspec.structs.replace(task, notify=notify)


def _state_after(outcome: IntentOutcome, *, is_canceled: bool) -> str:
    if outcome.state is IntentState.DELAYED:
        # Without Redis nobody knows whether an earlier try enqueued it.
        is_known = not isinstance(outcome.error, BrokerUnavailable)
        return MemberState.CANCELED if is_canceled and is_known else MemberState.WAITING
    return _STATES[outcome.state]


def _has_expired(task: NewTask, now_s: int) -> bool:
    """Return whether a task was refused because its deadline passed before there was room for it."""
    return 0 < task.deadline_s <= now_s + task.delay_ns // 10**9


def _mark(broker: Broker, batch: Batch, found: _Enqueued, is_idle: bool, has_full: bool) -> None:
    """Mark members that still wait, and end the turn. Of some members the end may have arrived already."""
    with transaction.atomic():
        locked = lock_batch(batch.pk)
        if locked is None:
            return
        changes, gone = _mark_members(found.marks)
        # Meanwhile members may have been added, or the batch been cancelled.
        has_waiting = locked.counts.get(MemberState.WAITING, 0) + changes[MemberState.WAITING] > 0
        has_more = has_waiting or locked.is_canceled != batch.is_canceled or (locked.is_canceled and not is_idle)
        # Behind the owner's other batches.
        locked.busy_until = broker.now() + (RETRY if is_idle and has_full else timedelta()) if has_more else None
        settle(broker, locked, changes, gone)  # a revoked key's batches are closed without it
    if unknown := changes[MemberState.UNKNOWN]:
        log.error("batch_members_unknown", batch=batch.pk, count=unknown)


def _mark_members(marks: Mapping[tuple[str, str], Sequence[Member]]) -> tuple[Counter[str], dict[str, Waiting]]:
    """Return the changes of counts by state, and those of what waits by Redis queue."""
    changes: Counter[str] = Counter()
    if not marks:
        return changes, {}
    read = [member.pk for members in marks.values() for member in members]
    waiting = set(Member.objects.filter(pk__in=read, state=MemberState.WAITING).values_list("pk", flat=True))
    done: list[Member] = []
    for (state, reason), members in marks.items():
        marked = [member for member in members if member.pk in waiting]
        values: dict[str, object] = {"state": state, "reason": reason}
        if state != MemberState.WAITING:
            values["request"] = None
            done += marked
        Member.objects.filter(pk__in=[member.pk for member in marked]).update(**values)
        changes[state] += len(marked)
        changes[MemberState.WAITING] -= len(marked)
    gone = sum_waiting((member.redis_queue, len(member.request or b"")) for member in done)
    return changes, {redis_queue: -each for redis_queue, each in gone.items()}


def _cancel_tasks(broker: Broker, batch: Batch) -> bool:
    """Cancel the next tasks of a batch; return whether there were any. Their ends are told.

    Those that are gone, or cannot be cancelled, are left as they are. Raise BrokerUnavailable: all are cancelled again.
    """
    enqueued = batch.members.filter(state=MemberState.ENQUEUED, pk__gt=batch.canceled_through)
    members = list(enqueued.order_by("pk")[:CHUNK])
    if not members:
        return False
    now_ns = broker.now_ns()
    for outcome in broker.run_all([cancel(each.redis_queue, each.task_id, now_ns=now_ns) for each in members]):
        if isinstance(outcome, BrokerUnavailable):
            raise outcome
    Batch.objects.filter(pk=batch.pk).update(canceled_through=members[-1].pk)
    return True


def _callback_intent(batch: Batch) -> Intent:
    task = decode_task(batch.callback_request or b"")
    payload = add_batch_member(task.payload, describe_end(batch))
    return Intent(
        task=msgspec.structs.replace(task, id=batch.callback_task_id, queue=batch.callback_queue, payload=payload),
        requested_s=batch.callback_requested_s,
        request_id=f"batch-{batch.pk}",
        parents=batch.queues,
    )


def _mark_callback(batch: Batch, outcome: IntentOutcome, now_s: int) -> None:
    states = {
        IntentState.ENQUEUED: CallbackState.ENQUEUED,
        IntentState.REFUSED: CallbackState.REFUSED,
        IntentState.UNKNOWN: CallbackState.UNKNOWN,
        IntentState.DELAYED: CallbackState.WAITING,
    }
    state, reason = states[outcome.state], outcome.reason[:300]
    values: dict[str, object] = {"callback_state": state, "callback_reason": reason}
    if outcome.is_absent and batch.callback_requested_s < now_s - RENEWED_AFTER_S:
        # It may wait for days behind a full or disabled queue. Its id stays, and Redis remembers that for a day.
        values["callback_requested_s"] = now_s
    elif (state, reason) == (CallbackState.WAITING, batch.callback_reason):
        return
    is_problem = state in (CallbackState.REFUSED, CallbackState.UNKNOWN)
    if is_problem:
        values["has_problem"] = True
    if state != CallbackState.WAITING:
        values["callback_request"] = None
    called = {} if state == CallbackState.WAITING else measure_callback(batch)
    with transaction.atomic():
        waiting = Batch.objects.filter(pk=batch.pk, callback_state=CallbackState.WAITING)
        is_marked = waiting.update(**values)
        if is_marked:
            count_waiting(batch, {redis_queue: -each for redis_queue, each in called.items()})
    if is_marked and is_problem:
        log.error("batch_callback_failed", batch=batch.pk, state=state, reason=reason)


def add_batch_member(payload: bytes, end: object) -> bytes:
    """Return the payload of a callback, a JSON object, with the member `batch`. Raise ValueError for other JSON."""
    members = read_json(payload, dict[str, msgspec.Raw])
    return payloads.encode_members({**members, "batch": msgspec.Raw(msgspec.json.encode(end))})


class LostMemberSearch:
    """Searches for members whose tasks are gone without an end."""

    def __init__(self) -> None:
        self._collector = EndsCollector()
        # The last batch that was looked at; empty: the next search begins with the first one.
        self._after = ""

    def run(self, broker: Broker) -> None:
        """Look at the next members of the next batches.

        Raise BrokerUnavailable, ConfigurationUnavailable, DatabaseError.
        """
        has_enqueued = Exists(Member.objects.filter(batch=OuterRef("pk"), state=MemberState.ENQUEUED))
        following = Batch.objects.filter(has_enqueued, ended_at__isnull=True, pk__gt=self._after).order_by("pk")
        _failures.begin_pass()
        batches = list(_failures.exclude_paused(following)[:BATCHES_MAX])
        self._after = batches[-1].pk if len(batches) == BATCHES_MAX else ""
        gone: dict[str, list[Member]] = {}
        for batch in batches:
            with _failures.isolate(batch.pk, name=batch.name):
                if found := self._find_gone(broker, batch):
                    gone[batch.pk] = found
        if not gone:
            return
        # An end that was appended before its task was found to be gone is known once the stream was read to its end.
        queues = sorted({member.redis_queue for members in gone.values() for member in members})
        read_through = self._collector.collect_all(broker, queues, get_fresh_catalog())
        for batch_id, members in gone.items():
            with _failures.isolate(batch_id):
                lost = [member.pk for member in members if member.redis_queue in read_through]
                self._mark_lost(broker, batch_id, lost)

    def _find_gone(self, broker: Broker, batch: Batch) -> list[Member]:
        enqueued = batch.members.filter(state=MemberState.ENQUEUED, pk__gt=batch.checked_through)
        members = list(enqueued.order_by("pk")[:CHECKED])
        through = members[-1].pk if len(members) == CHECKED else 0
        if through != batch.checked_through:
            Batch.objects.filter(pk=batch.pk).update(checked_through=through)
        states = broker.run(read_states([(member.redis_queue, member.task_id) for member in members]))
        return [member for member, state in zip(members, states, strict=True) if state is None]

    def _mark_lost(self, broker: Broker, batch_id: str, ids: Sequence[int]) -> None:
        with transaction.atomic():
            batch = lock_batch(batch_id)
            lost = Member.objects.filter(pk__in=ids, state=MemberState.ENQUEUED).update(state=MemberState.LOST)
            if batch is not None and lost:
                log.warning("batch_members_lost", batch=batch_id, count=lost)
                settle(broker, batch, {MemberState.ENQUEUED: -lost, MemberState.LOST: lost})


def close_abandoned_batches(broker: Broker) -> None:
    """Close the batches that are open although nothing was added for OPEN_FOR."""
    before = broker.now() - OPEN_FOR
    quiet = Q(added_at=None) | Q(added_at__lt=before)
    abandoned = Batch.objects.filter(quiet, is_closed=False, created_at__lt=before).order_by("created_at")
    _failures.begin_pass()
    for batch_id in list(_failures.exclude_paused(abandoned).values_list("pk", flat=True)[:BATCHES_MAX]):
        with _failures.isolate(batch_id), transaction.atomic():
            batch = lock_batch(batch_id)
            if batch is not None and not batch.is_closed and (batch.added_at or batch.created_at) < before:
                batch.is_closed = batch.is_abandoned = True
                settle(broker, batch, {})
                log.warning("batch_abandoned", batch=batch_id)


def find_old_members() -> QuerySet[Member]:
    """Return members of batches that are old enough to be deleted."""
    return Member.objects.filter(batch__in=_find_old())


def find_old_batches() -> QuerySet[Batch]:
    """Return old batches whose members are deleted."""
    return _find_old().exclude(Exists(Member.objects.filter(batch=OuterRef("pk"))))


def _find_old() -> QuerySet[Batch]:
    old = Batch.objects.filter(ended_at__lt=get_broker().now() - KEPT)
    return old.exclude(callback_state=CallbackState.WAITING)
