"""What is published: documents of three kinds, each with the revision that orders it, signed by the server.

In Redis a document is `1 <revision> <MAC in hex> <body>`; a deletion is a document without a body. One whose latest
changes mean nothing to workers is `2 <revision> <effective revision> <MAC in hex> <body>`.
"""

import hashlib
import hmac
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_PLAIN, _QUIET = b"1", b"2"


class Kind(StrEnum):
    """What a document describes."""

    QUEUE = "queue"
    VAULT = "vault"
    API_KEY = "api_key"
    ROLLOUT = "rollout"
    """That somebody wants a queue's newest commit to run: a new revision whenever they do."""


class DocumentRefused(ValueError):
    """Nobody who knows the secret key wrote this document for this place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One piece of configuration at one revision."""

    kind: Kind
    name: str
    revision: int
    body: bytes | None
    """JSON; None: deleted."""
    effective: int
    """The revision of the last change that workers are to notice."""

    @property
    def field(self) -> str:
        """Return what the document is found by."""
        return field(self.kind, self.name)


def field(kind: Kind, name: str) -> str:
    """Return what a document is found by, in Redis and in a snapshot."""
    return f"{kind}:{name}"


@lru_cache(maxsize=8)
def signing_key(secret: str) -> bytes:
    """Derive the key that signs documents from the server's secret key."""
    hkdf = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"runqy published configuration")
    return hkdf.derive(secret.encode())


def seal(document: Document, key: bytes) -> bytes:
    """Return a document as it stands in Redis."""
    head = _head(document.revision, document.effective)
    body = document.body or b""
    return b" ".join((*head, _mac(document.field, head, body, key), body))


def unseal(place: str, content: bytes, key: bytes) -> Document:
    """Return the document that stands in a field. Raises DocumentRefused unless it was signed for this very field."""
    try:
        head, mac, body = _split(content)
        revisions = [int(text) for text in head[1:]]
        kind, _, name = place.partition(":")
        document = Document(
            kind=Kind(kind), name=name, revision=revisions[0], body=body or None, effective=revisions[-1]
        )
    except ValueError as error:
        raise DocumentRefused(f"{place}: not a document") from error
    if not hmac.compare_digest(mac, _mac(place, head, body, key)):
        raise DocumentRefused(f"{place}: wrong signature")
    return document


def _head(revision: int, effective: int) -> tuple[bytes, ...]:
    """Return what stands in front of the signature."""
    if effective == revision:
        return _PLAIN, b"%d" % revision
    return _QUIET, b"%d" % revision, b"%d" % effective


def _split(content: bytes) -> tuple[tuple[bytes, ...], bytes, bytes]:
    """Return head, signature and body of a document. Raises ValueError."""
    if content[:2] == _QUIET + b" ":
        form, revision, effective, mac, body = content.split(b" ", 4)
        return (form, revision, effective), mac, body
    form, revision, mac, body = content.split(b" ", 3)
    if form != _PLAIN:
        raise ValueError("an unknown form")
    return (form, revision), mac, body


def _mac(place: str, head: tuple[bytes, ...], body: bytes, key: bytes) -> bytes:
    """Return the MAC over form, place, revisions and body; NUL, which only the body contains, keeps them apart."""
    form, *revisions = head
    signed = b"\0".join((b"runqy document", form, place.encode(), *revisions, body))
    return hmac.new(key, signed, hashlib.sha256).hexdigest().encode()


def token(revisions: list[int]) -> int:
    """Return the token of something made of several documents.

    Revisions come from one counter, so the highest grows with every change of any of them.
    """
    return max(revisions)
