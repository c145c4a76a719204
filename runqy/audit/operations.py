"""Append records to the chain: of changes of the database in their transaction, of changes of Redis from its stream.

What waits in the stream is signed, because workers may be able to write to Redis.
"""

import hashlib
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from functools import partial
from typing import Any

import msgspec
import structlog
from django.conf import settings
from django.db import transaction
from django.utils import timezone

from runqy.audit.actors import SERVER, Actor, current_actor
from runqy.audit.changes import Changes, encode_changes
from runqy.audit.models import AuditHead, AuditRecord, chain_key, fit_text
from runqy.broker.operation import raise_error
from runqy.broker.streams.audit_stream import append_record, delete_entries, read_entries
from runqy.broker.streams.entries import StreamEntry
from runqy.config import signing
from runqy.errors import AuditNotRecorded, BrokerUnavailable
from runqy.formats.json_decoding import read_json
from runqy.redis_connection import get_broker

MOVE_BATCH_SIZE = 500

log = structlog.get_logger()

_collected: ContextVar[list[AuditRecord] | None] = ContextVar("collected_records", default=None)


class PendingRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A record of a change of Redis, as it waits there."""

    event_id: str
    """Random, so that a record that is moved twice is stored once."""
    at: datetime
    actor: Actor
    action: str
    object_kind: str
    object_name: str
    changes: str = "{}"
    """The result of `encode_changes`."""


def record(*, action: str, object_kind: str, object_name: str, changes: Changes | None = None) -> AuditRecord:
    """Append a record of a change by the current actor, in the transaction of the change.

    `action` is like `queue.paused`. `changes` has the old and the new value of each field, or REDACTED if they are
    secret. The chain stays locked until the transaction ends: call this last, after taking all other locks, or
    inside `records_together`, which appends later. For changes of Redis see `record_in_redis`.
    """
    row = _build_row(
        current_actor(),
        at=timezone.now(),
        action=action,
        object_kind=object_kind,
        object_name=object_name,
        changes=encode_changes(changes or {}),
    )
    if (collected := _collected.get()) is None:
        _append([row])
    else:
        collected.append(row)
    return row


def record_in_redis(*, action: str, object_kind: str, object_name: str, changes: Changes | None = None) -> None:
    """Record a change of Redis in Redis before it is made, as `record_all_in_redis` does."""
    record_all_in_redis(action=action, object_kind=object_kind, object_names=[object_name], changes=changes)


def record_all_in_redis(
    *, action: str, object_kind: str, object_names: Sequence[str], changes: Changes | None = None
) -> None:
    """Record the same change of several objects in Redis, in one round trip, before it is made.

    `move_pending` moves the records to the database.

    This needs no database, and no change is unrecorded even if the process is killed. A recorded change may not have
    happened, so check first whether there is anything to change. Raise BrokerUnavailable, or AuditNotRecorded if too
    many records wait. The change must not be made if this raises.
    """
    broker = get_broker()
    at = broker.now()
    records = [
        PendingRecord(
            event_id=secrets.token_hex(16),
            at=at,
            actor=current_actor(),
            action=action,
            object_kind=object_kind,
            object_name=name,
            changes=encode_changes(changes or {}),
        )
        for name in object_names
    ]
    outcomes = broker.run_all([append_record(sign_pending(pending)) for pending in records])
    if not all(raise_error(outcome) for outcome in outcomes):
        raise AuditNotRecorded


def sign_pending(pending: PendingRecord) -> bytes:
    return signing.sign(_pending_key(), msgspec.json.encode(pending))


def verify_pending(content: bytes) -> PendingRecord | None:
    """Return the record of a stream entry; None if this server did not sign it."""
    body = signing.verify(_pending_key(), signed=content)
    return None if body is None else read_json(body, PendingRecord)


def _pending_key() -> bytes:
    return signing.derive_key(settings.SECRET_KEY, "runqy pending audit")


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
    verified = [(entry, verify_pending(entry.content)) for entry in entries]
    refused = [entry for entry, pending in verified if pending is None]
    found = [pending for _, pending in verified if pending is not None]
    # Derived from the first entry, so that entries that are read again are not reported again.
    refusal_id = hashlib.sha256(f"{refused[0].id} ".encode() + refused[0].content).hexdigest()[:32] if refused else ""
    event_ids = [*(pending.event_id for pending in found), refusal_id]
    stored = {*AuditRecord.objects.filter(event_id__in=event_ids).values_list("event_id", flat=True)}
    now, rows = timezone.now(), []
    for pending in found:
        if pending.event_id not in stored:
            columns = msgspec.structs.asdict(pending)
            rows.append(_build_row(columns.pop("actor"), **columns, recorded_at=now))
            stored.add(pending.event_id)
    if refused and refusal_id not in stored:
        log.error("pending_audit_refused", entries=[entry.id for entry in refused], reason="wrong signature")
        row = _build_row(
            SERVER,
            at=now,
            action="audit.entries_refused",
            object_kind="audit",
            object_name="redis",
            changes=encode_changes({"entries": (None, len(refused))}),
            event_id=refusal_id,
            recorded_at=now,
        )
        rows.append(row)  # one for all entries of a batch that this server did not sign
    AuditRecord.objects.bulk_create([_link(head, row) for row in rows])


def _build_row(actor: Actor, **columns: Any) -> AuditRecord:
    return AuditRecord(
        actor_kind=actor.kind,
        actor_id=fit_text(actor.id),
        actor_name=fit_text(actor.name),
        address=fit_text(actor.address),
        request_id=fit_text(actor.request_id),
        **columns,
    )


def _link(head: AuditHead, row: AuditRecord) -> AuditRecord:
    """Make a row the next of the chain and update the head. The caller saves both."""
    row.object_name = fit_text(row.object_name)
    row.number, row.previous = head.number + 1, head.digest
    row.digest = row.chained_digest(chain_key())
    head.number, head.digest = row.number, row.digest
    return row
