"""Reads Idempotency-Key: the same request under the same key is done once."""

import hashlib
import re

from django.http import HttpRequest

from runqy.api.permissions import identity_of
from runqy.broker.creating import Once
from runqy.errors import RequestInvalid

_KEY = re.compile(r"[!-~]{1,255}")


def read_once(request: HttpRequest, *, kind: str, body: bytes) -> Once | None:
    """Return the request's idempotency key, told apart from those of other senders; None when it has none.

    `kind` says what the body is, so that paths of the same meaning are the same request. Raises RequestInvalid.
    """
    key = request.META.get("HTTP_IDEMPOTENCY_KEY")
    if key is None:
        return None
    if not _KEY.fullmatch(key):
        raise RequestInvalid(errors=["Idempotency-Key: must be 1 to 255 visible characters of ASCII"])
    identity = identity_of(request)
    return Once(scope=_digest(identity.key_id or identity.name, key.encode()), fingerprint=_digest(kind, body))


def _digest(name: str, content: bytes) -> str:
    """Return what stands in Redis for something long, or something that is nobody else's business."""
    return hashlib.sha256(name.encode() + b"\0" + content).hexdigest()[:32]
