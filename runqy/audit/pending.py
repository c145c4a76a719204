"""Audit records that wait in Redis. They are signed, because workers may be able to write there."""

import hashlib
import hmac
import secrets
from datetime import UTC, datetime
from functools import lru_cache

import msgspec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings

from runqy.audit.actors import Actor, current_actor
from runqy.audit.changes import Changes, encode_changes
from runqy.broker.streams.audit_stream import append_record
from runqy.errors import AuditNotRecorded
from runqy.formats.json_decoding import read_json
from runqy.redis_connection import get_broker


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


def record_in_redis(*, action: str, object_kind: str, object_name: str, changes: Changes | None = None) -> None:
    """Record a change of Redis in Redis before it is made. `move_pending` moves the record to the database.

    This needs no database, and no change is unrecorded even if the process is killed. A recorded change may not have
    happened, so check first whether there is anything to change. Raise BrokerUnavailable, or AuditNotRecorded if too
    many records wait. The change must not be made if this raises.
    """
    broker = get_broker()
    pending = PendingRecord(
        event_id=secrets.token_hex(16),
        at=datetime.fromtimestamp(broker.now_ns() / 1e9, UTC),  # by Redis's clock, which all processes share
        actor=current_actor(),
        action=action,
        object_kind=object_kind,
        object_name=object_name,
        changes=encode_changes(changes or {}),
    )
    if not broker.run(append_record(sign(pending))):
        raise AuditNotRecorded


def sign(pending: PendingRecord) -> bytes:
    body = msgspec.json.encode(pending)
    return _mac(body) + b" " + body


def verify(content: bytes) -> PendingRecord | None:
    """Return the record of a stream entry; None if this server did not sign it."""
    mac, _, body = content.partition(b" ")
    if not hmac.compare_digest(mac, _mac(body)):
        return None
    return read_json(body, PendingRecord)


@lru_cache(maxsize=8)
def _derive_key(secret_key: str) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=b"runqy pending audit").derive(secret_key.encode())


def _mac(body: bytes) -> bytes:
    return hmac.new(_derive_key(settings.SECRET_KEY), body, hashlib.sha256).hexdigest().encode()
