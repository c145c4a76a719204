"""The digests of audit records, keyed by RUNQY_SECRET_KEY."""

import hmac
import json
from collections.abc import Sequence
from functools import lru_cache

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings

CHAIN_BEGIN = "0" * 64


@lru_cache(maxsize=8)
def derive_key(secret_key: str) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=b"runqy audit chain").derive(secret_key.encode())


def current_key() -> bytes:
    return derive_key(settings.SECRET_KEY)


def chain_digest(content: Sequence[str | int | None], key: bytes) -> str:
    """Return the digest of a record's content, which includes the digest of its predecessor."""
    return hmac.digest(key, json.dumps(content, separators=(",", ":")).encode(), "sha256").hex()
