"""The hash chain of audit records, keyed by RUNQY_SECRET_KEY."""

import hashlib
import hmac
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings

CHAIN_BEGIN = "0" * 64
PLAIN = ""
"""The key id of records of releases without keys, whose digests are plain hashes."""


@dataclass(frozen=True, slots=True)
class ChainKey:
    """A key of the chain, and its id in records."""

    id: str
    secret: bytes


@lru_cache(maxsize=8)
def derive_key(secret_key: str) -> ChainKey:
    """Derive the key of the chain from a secret key of the server."""
    secret = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"runqy audit chain").derive(secret_key.encode())
    return ChainKey(hmac.digest(secret, b"runqy audit chain key id", "sha256").hex()[:16], secret)


def current_key() -> ChainKey:
    """Return the key of new records."""
    return derive_key(settings.SECRET_KEY)


def chain_digest(record: "Chained", key: ChainKey | None) -> str:
    """Return the digest of a record, which includes its predecessor's digest; a plain hash without a key."""
    content = [
        record.previous,
        record.number,
        record.at.astimezone(UTC).isoformat(),
        *(record.actor_kind, record.actor_id, record.actor_name, record.address, record.request_id),
        *(record.action, record.object_kind, record.object_name, record.changes),
    ]
    if event_id := getattr(record, "event_id", None):  # rows in earlier migrations lack it
        content += [event_id, record.recorded_at and record.recorded_at.astimezone(UTC).isoformat()]
    if key is None:
        return hashlib.sha256(_encode(content)).hexdigest()
    return hmac.digest(key.secret, _encode([record.key_id, *content]), "sha256").hex()


def _encode(content: list[object]) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()


class Chained(Protocol):
    """A record of this version or of a migration's."""

    number: int
    at: datetime
    actor_kind: str
    actor_id: str
    actor_name: str
    address: str
    request_id: str
    action: str
    object_kind: str
    object_name: str
    changes: str
    previous: str
    key_id: str
    event_id: str | None
    recorded_at: datetime | None
