"""Append records: of changes of the database in their transaction, of changes of Redis from its stream.

Changes of an object are recorded field by field. What waits in the stream is signed, because workers may be able to
write to Redis. Records older than RUNQY_AUDIT_KEPT are removed.
"""

import hashlib
import json
import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Literal

import msgspec
import structlog
from django.conf import settings
from django.db.models import QuerySet
from django.utils import timezone

from runqy.audit.actors import SERVER, Actor, current_actor
from runqy.audit.models import AuditRecord, fit_text
from runqy.broker.request import raise_error
from runqy.broker.streams.audit_stream import append_record, delete_entries, read_entries
from runqy.broker.streams.entries import StreamEntry
from runqy.core import signing
from runqy.core.formats.json_decoding import read_json
from runqy.errors import AuditNotRecorded
from runqy.maintenance.failed_rows import RowFailures
from runqy.maintenance.retention import ROWS_AT_ONCE
from runqy.maintenance.streams import move_entries
from runqy.redis_connection import get_broker

REDACTED: Final = "changed"
"""Replaces secret values, which are not recorded."""

Change = tuple[object, object] | Literal["changed"]
"""The old and the new value, each JSON, a date, or None where there is no value; or REDACTED."""

Changes = Mapping[str, Change]
_failures = RowFailures("audit record")

log = structlog.get_logger()


def diff(old: Mapping[str, object], new: Mapping[str, object], *, secrets: Collection[str] = ()) -> Changes:
    """Return the changes between two states; `old` is empty for a new object, `new` for a deleted one."""
    changes: dict[str, Change] = {}
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        if before != after:
            changes[name] = REDACTED if name in secrets else (before, after)
    return changes


def encode_changes(changes: Changes) -> str:
    """Return changes as JSON with sorted keys, in ASCII."""
    encoded = {
        name: change if isinstance(change, str) else {"old": change[0], "new": change[1]}
        for name, change in changes.items()
    }
    return json.dumps(encoded, sort_keys=True, separators=(",", ":"), default=str)


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
    secret. For changes of Redis see `record_in_redis`.
    """
    row = _build_row(
        current_actor(),
        at=timezone.now(),
        action=action,
        object_kind=object_kind,
        object_name=object_name,
        changes=encode_changes(changes or {}),
    )
    row.save(force_insert=True)
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


def move_pending() -> int:
    """Move the records that wait in Redis to the database, oldest first, and return how many there were.

    Raise BrokerUnavailable, DatabaseError.
    """

    def store(entries: Sequence[StreamEntry]) -> None:
        # The unique event id ignores an entry that another process has stored. PostgreSQL waits for a transaction that
        # is storing it, so that the records keep their order.
        AuditRecord.objects.bulk_create(_rows_of(entries), ignore_conflicts=True)

    return move_entries(get_broker(), read_entries, delete_entries, store, _failures)


def _rows_of(entries: Sequence[StreamEntry]) -> Iterator[AuditRecord]:
    """Yield the records of a batch; last, one for all entries that this server did not sign."""
    now, refused = timezone.now(), list[StreamEntry]()
    for entry in entries:
        if pending := verify_pending(entry.content):
            columns = msgspec.structs.asdict(pending)
            yield _build_row(columns.pop("actor"), **columns, recorded_at=now)
        else:
            refused.append(entry)
    if refused:
        log.error("pending_audit_refused", entries=[entry.id for entry in refused], reason="wrong signature")
        yield _build_row(
            SERVER,
            at=now,
            action="audit.entries_refused",
            object_kind="audit",
            object_name="redis",
            changes=encode_changes({"entries": (None, len(refused))}),
            # Derived from the first entry, so that entries that are read again are not reported again.
            event_id=hashlib.sha256(f"{refused[0].id} ".encode() + refused[0].content).hexdigest()[:32],
            recorded_at=now,
        )


def _build_row(actor: Actor, *, object_name: str, **columns: Any) -> AuditRecord:
    return AuditRecord(
        actor_kind=actor.kind,
        actor_id=fit_text(actor.id),
        actor_name=fit_text(actor.name),
        address=fit_text(actor.address),
        request_id=fit_text(actor.request_id),
        object_name=fit_text(object_name),
        **columns,
    )


_AT_MOST_EVERY = timedelta(days=1)  # each removal leaves a record


def find_old_records() -> QuerySet[AuditRecord]:
    """Return the records to remove, the oldest first. Few wait for a day, until there are more."""
    if not settings.RUNQY_AUDIT_KEPT_S:
        return AuditRecord.objects.none()
    old = AuditRecord.objects.filter(at__lt=_kept_since()).order_by("at")
    is_due = old.filter(at__lte=_kept_since() - _AT_MOST_EVERY).exists() or old[ROWS_AT_ONCE - 1 :].exists()
    return old if is_due else old.none()


def remove_records(old: QuerySet[AuditRecord]) -> None:
    """Remove records, and record that."""
    removed, _ = old.delete()
    if removed:  # by this process: another one may have removed them since they were found
        changes = {"records": (None, removed), "before": (None, _kept_since())}
        record(action="audit.removed", object_kind="audit", object_name="audit", changes=changes)


def _kept_since() -> datetime:
    return timezone.now() - timedelta(seconds=settings.RUNQY_AUDIT_KEPT_S)
