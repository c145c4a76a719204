"""Append records to the chain: of changes of the database in their transaction, of changes of Redis from its stream."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from functools import partial

import structlog
from django.db import transaction
from django.utils import timezone

from runqy.audit.actors import SERVER, Actor, current_actor
from runqy.audit.chain import current_key
from runqy.audit.changes import Changes, encode_changes
from runqy.audit.models import AuditHead, AuditRecord, fit_text
from runqy.audit.pending import PendingRecord, verify
from runqy.broker.streams.audit_stream import StreamEntry, delete_entries, read_entries
from runqy.errors import BrokerUnavailable
from runqy.redis_connection import get_broker

MOVE_BATCH_SIZE = 500

log = structlog.get_logger()

_collected: ContextVar[list[AuditRecord] | None] = ContextVar("collected_records", default=None)


def record(*, action: str, object_kind: str, object_name: str, changes: Changes | None = None) -> AuditRecord:
    """Append a record of a change by the current actor, in the transaction of the change.

    `action` is like `queue.paused`. `changes` has the old and the new value of each field, or REDACTED if they are
    secret. The chain stays locked until the transaction ends: call this last, after taking all other locks, or
    inside `records_together`, which appends later. For changes of Redis see `record_in_redis`.
    """
    row = AuditRecord(
        at=timezone.now(),
        action=action,
        object_kind=object_kind,
        object_name=object_name,
        changes=encode_changes(changes or {}),
    )
    _set_actor(row, current_actor())
    if (collected := _collected.get()) is None:
        _append([row])
    else:
        collected.append(row)
    return row


@contextmanager
def records_together() -> Iterator[None]:
    """Append the records of a `with` block at once when it ends; none if it raises.

    The caller has opened a transaction or a savepoint. A block inside another one adds its records to the outer one.
    """
    outer, rows = _collected.get(), list[AuditRecord]()
    token = _collected.set(rows)
    try:
        yield
    finally:
        _collected.reset(token)
    if outer is not None:
        outer += rows
    elif rows:
        _append(rows)


def move_pending() -> int:
    """Move the records that wait in Redis into the chain, oldest first, and return how many there were.

    Raise BrokerUnavailable.
    """
    broker, moved = get_broker(), 0
    while entries := broker.run(read_entries(MOVE_BATCH_SIZE)):
        with transaction.atomic():
            head = lock_head()
            _append_entries(head, entries)
            head.save()
        # After the commit: an entry that is read again, after a kill in between, is recognised by its event id.
        _delete(entries)
        moved += len(entries)
    return moved


def _append(rows: Sequence[AuditRecord]) -> None:
    # Records that wait in Redis are older and come first. Read them before locking the head, which all changes need.
    entries = _read_waiting()
    with transaction.atomic(savepoint=False):
        head = lock_head()
        if entries:
            _append_entries(head, entries)
            transaction.on_commit(partial(_delete_moved, entries))
        AuditRecord.objects.bulk_create([_link(head, row) for row in rows])
        head.save()


def _read_waiting() -> list[StreamEntry]:
    waiting: list[StreamEntry] = []
    try:
        broker = get_broker()
        while found := broker.run(read_entries(MOVE_BATCH_SIZE, after=waiting[-1].id if waiting else "")):
            waiting += found
            if len(found) < MOVE_BATCH_SIZE:
                break
    except BrokerUnavailable as error:
        # A change of the database does not need Redis: maintenance moves the entries later.
        log.warning("pending_audit_not_read", error=str(error))
    return waiting


def _delete_moved(entries: Sequence[StreamEntry]) -> None:
    try:
        for start in range(0, len(entries), MOVE_BATCH_SIZE):
            _delete(entries[start : start + MOVE_BATCH_SIZE])
    except BrokerUnavailable as error:
        # `move_pending` reads them again, finds their event ids stored, and deletes them.
        log.warning("pending_audit_not_deleted", error=str(error))


def _delete(entries: Sequence[StreamEntry]) -> None:
    get_broker().run(delete_entries([entry.id for entry in entries]))


def lock_head() -> AuditHead:
    """Return the head of the chain, locked until the transaction ends."""
    head, _ = AuditHead.objects.select_for_update().get_or_create(pk=1)
    return head


def _append_entries(head: AuditHead, entries: Sequence[StreamEntry]) -> None:
    for start in range(0, len(entries), MOVE_BATCH_SIZE):
        _append_some(head, entries[start : start + MOVE_BATCH_SIZE])


def _append_some(head: AuditHead, entries: Sequence[StreamEntry]) -> None:
    verified = [(entry, verify(entry.content)) for entry in entries]
    refused = [entry for entry, pending in verified if pending is None]
    found = [pending for _, pending in verified if pending is not None]
    # Derived from the first entry, so that entries that are read again are not reported again.
    refusal_id = hashlib.sha256(f"{refused[0].id} ".encode() + refused[0].content).hexdigest()[:32] if refused else ""
    event_ids = [*(pending.event_id for pending in found), refusal_id]
    stored = {*AuditRecord.objects.filter(event_id__in=event_ids).values_list("event_id", flat=True)}
    now, rows = timezone.now(), []
    for pending in found:
        if pending.event_id not in stored:
            rows.append(_build_pending(head, pending, now))
            stored.add(pending.event_id)
    if refused and refusal_id not in stored:
        rows.append(_build_refusal(head, refused, refusal_id, now))
    AuditRecord.objects.bulk_create(rows)


def _build_pending(head: AuditHead, pending: PendingRecord, now: datetime) -> AuditRecord:
    row = AuditRecord(
        at=pending.at,
        action=pending.action,
        object_kind=pending.object_kind,
        object_name=pending.object_name,
        changes=pending.changes,
        event_id=pending.event_id,
        recorded_at=now,
    )
    _set_actor(row, pending.actor)
    return _link(head, row)


def _build_refusal(head: AuditHead, refused: Sequence[StreamEntry], event_id: str, now: datetime) -> AuditRecord:
    """Return one record for all entries of a batch that this server did not sign."""
    log.error("pending_audit_refused", entries=[entry.id for entry in refused], reason="wrong signature")
    row = AuditRecord(
        at=now,
        action="audit.entries_refused",
        object_kind="audit",
        object_name="redis",
        changes=encode_changes({"entries": (None, len(refused))}),
        event_id=event_id,
        recorded_at=now,
    )
    _set_actor(row, SERVER)
    return _link(head, row)


def _set_actor(row: AuditRecord, actor: Actor) -> None:
    row.actor_kind = actor.kind
    row.actor_id = fit_text(actor.id)
    row.actor_name = fit_text(actor.name)
    row.address = fit_text(actor.address)
    row.request_id = fit_text(actor.request_id)


def _link(head: AuditHead, row: AuditRecord) -> AuditRecord:
    """Make a row the next of the chain and update the head. The caller saves both."""
    row.object_name = fit_text(row.object_name)
    row.number, row.previous = head.number + 1, head.digest
    row.digest = row.chained_digest(current_key())
    head.number, head.digest = row.number, row.digest
    return row
