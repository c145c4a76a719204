"""Sign what the server keeps in Redis, with keys derived from RUNQY_SECRET_KEY, one for each purpose."""

import hashlib
import hmac
from functools import lru_cache

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


@lru_cache(maxsize=32)
def derive_key(secret_key: str, purpose: str) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=purpose.encode()).derive(secret_key.encode())


def mac(key: bytes, *parts: bytes) -> bytes:
    """Return the MAC, in hex, of parts joined by NUL. Only the last part may contain NUL."""
    return hmac.new(key, b"\0".join(parts), hashlib.sha256).hexdigest().encode()


def sign(key: bytes, *parts: bytes) -> bytes:
    """Return the MAC of all parts, a space, and the last part."""
    return mac(key, *parts) + b" " + parts[-1]


def verify(key: bytes, *context: bytes, signed: bytes) -> bytes | None:
    """Return the last part of what `sign` returned for this context; None for any other content."""
    digest, _, body = signed.partition(b" ")
    return body if hmac.compare_digest(digest, mac(key, *context, body)) else None
