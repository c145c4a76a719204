"""The Idempotency-Key header: a repeated request under the same key has the effect of one."""

import hashlib
import re

from runqy.accounts.identity import Identity
from runqy.broker.enqueue import IdempotencyKey
from runqy.errors import RequestInvalid

_KEY = re.compile(r"[!-~]{1,255}")


def parse_idempotency_key(key: str | None, *, identity: Identity, kind: str, body: bytes) -> IdempotencyKey | None:
    """Return a request's idempotency key, scoped to its sender; None without one.

    `kind` names the operation, so that a path and its alias are the same request. Raises RequestInvalid.
    """
    if key is None:
        return None
    if not _KEY.fullmatch(key):
        raise RequestInvalid(errors=["Idempotency-Key: must be 1 to 255 visible ASCII characters"])
    scope = _digest(identity.key_id or identity.name, key.encode())
    return IdempotencyKey(scope=scope, fingerprint=_digest(kind, body))


def _digest(name: str, content: bytes) -> str:
    """Return what is stored in Redis for a long or private value."""
    return hashlib.sha256(name.encode() + b"\0" + content).hexdigest()[:32]
