"""Create batches, add to them, close and cancel them. Maintenance enqueues their members."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import msgspec
from django.db import IntegrityError, connection, transaction
from django.db.models import Q

from batches.models import Batch, BatchRequest, CallbackState, Condition, Member, MemberState
from batches.progress import (
    Waiting,
    count_waiting,
    describe_end,
    encode_task,
    lock_batch,
    measure_callback,
    settle,
    sum_waiting,
)
from batches.queries import find_owner, get_batch, sum_waiting_members
from batches.runner import add_batch_member
from queues.catalog import AllowedQueues, ResolvedQueue
from queues.queries import resolve_queue
from runqy.audit.actors import current_actor
from runqy.audit.operations import record
from runqy.broker.broker import Broker
from runqy.broker.tasks.enqueue import IdempotencyKey, NewTask, new_task_id, new_task_ids
from runqy.errors import (
    BatchClosed,
    BatchesFull,
    BatchNotFound,
    BatchRefused,
    IdempotencyKeyReused,
    PayloadInvalid,
    RunqyError,
)
from tasks.enqueue_many import RequestedItem, RequestedTasks, check_ids
from tasks.operations import build_task, ensure_enabled, task_id_used

ROWS_PER_INSERT = 1000
AUDIT_KIND = "batch"
MAX_WAITING_MEMBERS = 500_000
MAX_WAITING_BYTES = 256 << 20
"""What members and callbacks of batches may take in the database for a sub-queue, and half of it for one key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbackSpec:
    """The callback of a batch, as a client requests it."""

    task: NewTask
    """Its payload is a JSON object without the member `batch`."""
    on: Condition = Condition.ENDED


@dataclass(frozen=True, slots=True, kw_only=True)
class Addition:
    """The result of a request that created a batch or added to one."""

    batch: Batch
    task_ids: Sequence[str | None] = ()
    """In the order of the jobs; None where one failed."""
    errors: Sequence[str | None] = ()
    is_replayed: bool = False
    """An earlier request with the same Idempotency-Key did it."""


def create_batch(  # noqa: PLR0913 (what describes a batch)
    broker: Broker,
    *,
    name: str = "",
    callback: CallbackSpec | None = None,
    jobs: RequestedTasks | None = None,
    is_closed: bool = False,
    allowed_queues: AllowedQueues = None,
    idempotency_key: IdempotencyKey | None = None,
) -> Addition:
    """Create a batch, with the first members if there are any.

    Raise QueueNotFound, QueueDisabled, PayloadInvalid and RequestInvalid for the callback or all jobs, BatchRefused if
    no job is valid, BatchesFull, IdempotencyKeyReused.
    """
    if repeated := _find_repeated(idempotency_key):
        return repeated
    now = broker.now()
    actor = current_actor()
    batch = Batch(name=name, created_at=now, is_closed=is_closed, owner=find_owner(actor))
    batch.created_by = msgspec.structs.asdict(actor)
    queues = set[str]()
    if callback is not None:
        queues.add(_set_callback(batch, callback, now, allowed_queues))
    members = _Members.build(batch, jobs, now, allowed_queues)
    batch.queues = sorted(queues | members.queues)
    called = measure_callback(batch)
    added = [*members.waiting.items(), *called.items()]
    _ensure_room(batch, added)

    def save() -> _Members:
        batch.save(force_insert=True)
        count_waiting(batch, called)
        _insert(broker, batch, members, now)
        _ensure_room(batch, added, is_stored=True)
        return members

    return _once(batch, idempotency_key, save)


def add_to_batch(
    broker: Broker,
    batch_id: str,
    *,
    jobs: RequestedTasks,
    allowed_queues: AllowedQueues = None,
    idempotency_key: IdempotencyKey | None = None,
) -> Addition:
    """Add members to a batch that is not closed. Raise BatchNotFound, BatchClosed, and the errors of `create_batch`."""
    if repeated := _find_repeated(idempotency_key):
        return repeated
    now = broker.now()
    batch = get_batch(batch_id, allowed_queues=allowed_queues)
    members = _Members.build(batch, jobs, now, allowed_queues)
    _ensure_room(batch, members.waiting.items())
    has_ids = any(isinstance(item, NewTask) and item.id for item in jobs.items)

    def save() -> _Members:
        locked = lock_batch(batch_id)
        if locked is None:
            raise BatchNotFound
        if locked.is_closed:
            raise BatchClosed
        # The lock keeps an id from being added twice by concurrent requests.
        added = members.without_known(locked) if has_ids else members
        if added.rows:
            locked.queues = sorted({*locked.queues, *added.queues})
            locked.added_at = now
        _insert(broker, locked, added, now)
        _ensure_room(batch, added.waiting.items(), is_stored=True)
        return added

    return _once(batch, idempotency_key, save)


def close_batch(broker: Broker, batch_id: str, *, allowed_queues: AllowedQueues = None) -> Batch:
    """Close a batch: nothing more can be added, and it ends when its members have. Raise BatchNotFound."""
    get_batch(batch_id, allowed_queues=allowed_queues)
    with transaction.atomic():
        batch = _lock(batch_id)
        if not batch.is_closed:
            batch.is_closed = True
            settle(broker, batch, {})
    return batch


def cancel_batch(broker: Broker, batch_id: str, *, allowed_queues: AllowedQueues = None) -> Batch:
    """Close a batch, and let maintenance cancel its members. Recorded in the audit. Raise BatchNotFound."""
    get_batch(batch_id, allowed_queues=allowed_queues)
    with transaction.atomic():
        batch = _lock(batch_id)
        if not batch.is_canceled and not batch.is_ended:
            batch.is_closed = batch.is_canceled = True
            batch.busy_until = _wake(batch, broker.now())
            settle(broker, batch, {})
            changes = {"is_canceled": (False, True), "members_not_ended": (None, batch.open_count)}
            record(action="batch.canceled", object_kind=AUDIT_KIND, object_name=batch.pk, changes=changes)
    return batch


def _lock(batch_id: str) -> Batch:
    batch = lock_batch(batch_id)
    if batch is None:
        raise BatchNotFound
    return batch


def _wake(batch: Batch, now: datetime) -> datetime:
    """Return when maintenance looks at a batch: now, or when the process that has it is done."""
    return max(now, batch.busy_until) if batch.busy_until else now


@dataclass(frozen=True, slots=True, kw_only=True)
class _Members:
    """The rows of valid jobs, and what the client is told of each job."""

    rows: Sequence[Member] = ()
    queues: frozenset[str] = frozenset()
    task_ids: Sequence[str | None] = ()
    errors: Sequence[str | None] = ()

    @property
    def waiting(self) -> Mapping[str, Waiting]:
        """The rows by Redis queue."""
        return sum_waiting((row.redis_queue, len(row.request or b"")) for row in self.rows)

    @classmethod
    def build(
        cls, batch: Batch, jobs: RequestedTasks | None, now: datetime, allowed_queues: AllowedQueues
    ) -> "_Members":
        """Raise QueueNotFound, and BatchRefused if no job is valid."""
        if jobs is None:
            return cls()
        resolved = resolve_queue(jobs.queue, allowed_queues=allowed_queues)
        check_ids(jobs.items)
        ids = new_task_ids(len(jobs.items))
        built = [_build_member(batch, item, resolved, ids[i], now) for i, item in enumerate(jobs.items)]
        rows = [each for each in built if isinstance(each, Member)]
        errors = [each.detail if isinstance(each, RunqyError) else None for each in built]
        if not rows:
            details = [f"jobs[{index}]: {error}" for index, error in enumerate(errors[:100])]
            raise BatchRefused(f"None of the {len(built)} jobs is valid; the first error: {details[0]}", details)
        task_ids = [each.task_id if isinstance(each, Member) else None for each in built]
        rows = list({row.task_id: row for row in reversed(rows)}.values())[::-1]  # an id may be repeated
        return cls(rows=rows, queues=frozenset({resolved.queue.name}), task_ids=task_ids, errors=errors)

    def without_known(self, batch: Batch) -> "_Members":
        """Return what remains without the ids that are members: of the same Redis queue the request is a repetition,
        of another one it is an error.
        """
        known = dict[str, str]()
        for start in range(0, len(self.rows), ROWS_PER_INSERT):
            ids = [row.task_id for row in self.rows[start : start + ROWS_PER_INSERT]]
            known.update(batch.members.filter(task_id__in=ids).values_list("task_id", "redis_queue"))
        used = {row.task_id for row in self.rows if known.get(row.task_id, row.redis_queue) != row.redis_queue}
        return replace(
            self,
            rows=[row for row in self.rows if row.task_id not in known],
            task_ids=[None if each in used else each for each in self.task_ids],
            errors=[
                task_id_used(task_id).detail if task_id in used else error
                for task_id, error in zip(self.task_ids, self.errors, strict=True)
            ],
        )


def _build_member(
    batch: Batch, item: RequestedItem, resolved: ResolvedQueue, task_id: str, now: datetime
) -> Member | RunqyError:
    if isinstance(item, RunqyError):
        return item
    task_id = item.id or task_id
    requested = _as_stored(item, resolved, task_id, now)
    try:
        build_task(requested, resolved, task_id=task_id, now_ns=_ns(now), headers={})
    except RunqyError as error:
        return error
    return Member(
        batch=batch,
        task_id=task_id,
        redis_queue=resolved.redis_queue,
        request=encode_task(requested),
        requested_s=0,
    )


def _as_stored(task: NewTask, resolved: ResolvedQueue, task_id: str, now: datetime) -> NewTask:
    """Return a requested task as it is enqueued later. Its delay counts from the request."""
    process_at_us = -(-(_ns(now) + task.delay_ns) // 1000) if task.delay_ns else task.process_at_us
    return msgspec.structs.replace(
        task, id=task_id, queue=resolved.redis_queue, process_at_us=process_at_us, delay_ns=0
    )


def _ns(now: datetime) -> int:
    return int(now.timestamp() * 10**9)


def _set_callback(batch: Batch, callback: CallbackSpec, now: datetime, allowed_queues: AllowedQueues) -> str:
    """Set the callback, and return the name of its queue. The queue must accept what it will be told."""
    resolved = resolve_queue(callback.task.queue, allowed_queues=allowed_queues)
    ensure_enabled(resolved)
    task = msgspec.structs.replace(callback.task, queue=resolved.redis_queue)
    sample = msgspec.structs.replace(task, payload=add_batch_member(task.payload, describe_end(batch)))
    try:
        build_task(sample, resolved, task_id=new_task_id(), now_ns=_ns(now), headers={})
    except PayloadInvalid as error:
        raise PayloadInvalid(errors=[f"callback.payload.{each}" for each in error.errors]) from error
    batch.on, batch.callback_state, batch.callback_queue = callback.on, CallbackState.PLANNED, resolved.redis_queue
    batch.callback_request = encode_task(task)
    return resolved.queue.name


def _insert(broker: Broker, batch: Batch, members: _Members, now: datetime) -> None:
    for row in members.rows:
        row.batch = batch
    Member.objects.bulk_create(members.rows, batch_size=ROWS_PER_INSERT)
    if members.rows:
        batch.busy_until = _wake(batch, now)
    settle(broker, batch, {MemberState.WAITING: len(members.rows)}, members.waiting)


def _ensure_room(batch: Batch, added: Iterable[tuple[str, Waiting]], *, is_stored: bool = False) -> None:
    """Raise BatchesFull if too much would wait for a Redis queue, or too much of one owner.

    What waits for nothing else is accepted, whatever its size. It is called before the rows are stored, which may take
    long, and again at the end of their transaction, because requests that arrive at the same time do not see each other
    before.
    """
    by_queue: defaultdict[str, Waiting] = defaultdict(Waiting)
    for redis_queue, each in added:
        by_queue[redis_queue] += each
    total = sum(by_queue.values(), Waiting())
    limits = [(Q(redis_queue=queue), each, 1, f"for the queue {queue}") for queue, each in by_queue.items()]
    limits.append((Q(owner=batch.owner), total, 2, "of this key"))
    if is_stored:
        _await_others([f"queue {queue}" for queue in by_queue] + [f"owner {batch.owner}"])
    for condition, new, share, whose in limits:
        found = sum_waiting_members(condition) + (-new if is_stored else Waiting())
        count, size_bytes = MAX_WAITING_MEMBERS // share, MAX_WAITING_BYTES // share
        if found.count > 0 and new.count and found.count + new.count > count:
            raise BatchesFull(f"{found.count:,} members of batches wait {whose}; at most {count:,} may.")
        if found.size_bytes > 0 and new.size_bytes and found.size_bytes + new.size_bytes > size_bytes:
            sizes = f"{found.size_bytes:,} bytes of members of batches wait {whose}; at most {size_bytes:,} may."
            raise BatchesFull(sizes)


def _await_others(names: Iterable[str]) -> None:
    """Let transactions with the same names end one after another. They hold the lock only while they check and commit.

    SQLite has one writer at a time.
    """
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            for name in sorted(names):  # in one order, against deadlocks
                cursor.execute("SELECT pg_advisory_xact_lock(hashtext('runqy batches'), hashtext(%s))", [name])


def _once(batch: Batch, key: IdempotencyKey | None, save: Callable[[], _Members]) -> Addition:
    """Save in one transaction, with the idempotency key of the request. Another request may have come first."""
    try:
        with transaction.atomic():
            members = save()
            if key is not None:
                response = {"task_ids": list(members.task_ids), "errors": list(members.errors)}
                row = BatchRequest(batch_id=batch.pk, scope=key.scope, fingerprint=key.fingerprint, response=response)
                row.save(force_insert=True)
    except IntegrityError:
        if repeated := _find_repeated(key):
            return repeated
        raise
    return Addition(
        batch=Batch.objects.defer("callback_request").get(pk=batch.pk), task_ids=members.task_ids, errors=members.errors
    )


def _find_repeated(key: IdempotencyKey | None) -> Addition | None:
    """Return the result of an earlier request with the same key. Raise IdempotencyKeyReused."""
    row = BatchRequest.objects.select_related("batch").filter(scope=key.scope).first() if key else None
    if row is None or key is None:
        return None
    if row.fingerprint != key.fingerprint:
        raise IdempotencyKeyReused
    stored: Mapping[str, Any] = row.response
    return Addition(batch=row.batch, task_ids=stored["task_ids"], errors=stored["errors"], is_replayed=True)
