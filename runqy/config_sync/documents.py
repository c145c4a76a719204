"""Published documents and their head: kinds, revisions and signatures.

In Redis a document is `1 <revision> <MAC in hex> <body>`; a deletion is a document without a body. One whose latest
changes mean nothing to workers is `2 <revision> <effective revision> <MAC in hex> <body>`.

The head is the highest revision and a hash of all revisions: `head <revision> <hash in hex> <nonce> <MAC in hex>`. The
nonce makes every publication a new head, so that a process that finds the head it has seen needs to read nothing else.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_PLAIN, _QUIET = b"1", b"2"
_BARE_DIGEST = re.compile(rb"[0-9a-f]{32}")


class DocumentKind(StrEnum):
    """The kind of object that a document describes."""

    QUEUE = "queue"
    VAULT = "vault"
    API_KEY = "api_key"
    ROLLOUT = "rollout"
    """A request to deploy a queue's newest commit; each one is a new revision."""
    REDIS_QUEUES = "redis_queues"
    """The Redis queues of a queue as a JSON list, where they differ from those that its name alone implies."""


class InvalidSignature(ValueError):
    """The document was not signed with the server's key for this field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """An object of the configuration at one revision."""

    kind: DocumentKind
    name: str
    revision: int
    body: bytes | None
    """JSON; None: deleted."""
    effective: int
    """The revision of the last change that workers should notice."""

    @property
    def field(self) -> str:
        return field(self.kind, self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The head of all documents at one time."""

    revision: int
    """The highest revision; 0 without documents."""
    fingerprint: str

    @classmethod
    def of(cls, revisions: Iterable[tuple[str, int]]) -> "Head":
        """Return the head of documents, given their fields and revisions."""
        ordered = sorted(revisions)
        lines = "".join(f"{field} {revision}\n" for field, revision in ordered)
        highest = max((revision for _, revision in ordered), default=0)
        return cls(revision=highest, fingerprint=hashlib.sha256(lines.encode()).hexdigest())


def field(kind: DocumentKind, name: str) -> str:
    """Return the key of a document, in Redis's hash and in a snapshot."""
    return f"{kind}:{name}"


@lru_cache(maxsize=8)
def signing_key(secret: str) -> bytes:
    """Derive the key that signs documents from the server's secret key."""
    hkdf = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"runqy published configuration")
    return hkdf.derive(secret.encode())


def sign(document: Document, key: bytes) -> bytes:
    """Return the signed form of a document."""
    head = _prefix(document.revision, document.effective)
    body = document.body or b""
    return b" ".join((*head, _mac(document.field, head, body, key), body))


def verify(field: str, content: bytes, key: bytes) -> Document:
    """Return the document of a field. Raise InvalidSignature unless it was signed for this field."""
    try:
        head, mac, body = _split(content)
        revisions = [int(text) for text in head[1:]]
        kind, _, name = field.partition(":")
        document = Document(
            kind=DocumentKind(kind), name=name, revision=revisions[0], body=body or None, effective=revisions[-1]
        )
    except ValueError as error:
        raise InvalidSignature(f"{field}: not a document") from error
    if not hmac.compare_digest(mac, _mac(field, head, body, key)):
        raise InvalidSignature(f"{field}: wrong signature")
    return document


def _prefix(revision: int, effective: int) -> tuple[bytes, ...]:
    """Return the parts before the signature."""
    if effective == revision:
        return _PLAIN, b"%d" % revision
    return _QUIET, b"%d" % revision, b"%d" % effective


def _split(content: bytes) -> tuple[tuple[bytes, ...], bytes, bytes]:
    """Return head, signature and body of a document. Raise ValueError."""
    if content[:2] == _QUIET + b" ":
        form, revision, effective, mac, body = content.split(b" ", 4)
        return (form, revision, effective), mac, body
    form, revision, mac, body = content.split(b" ", 3)
    if form != _PLAIN:
        raise ValueError("unknown format")
    return (form, revision), mac, body


def _mac(field: str, head: tuple[bytes, ...], body: bytes, key: bytes) -> bytes:
    """Return the MAC of format, field, revisions and body, separated by NUL, which only the body may contain."""
    form, *revisions = head
    signed = b"\0".join((b"runqy document", form, field.encode(), *revisions, body))
    return hmac.new(key, signed, hashlib.sha256).hexdigest().encode()


def token(revisions: list[int]) -> int:
    """Return the token of something made of several documents.

    Revisions come from one counter, so the highest grows with every change of any of them.
    """
    return max(revisions)


def sign_head(head: Head, key: bytes) -> bytes:
    """Return the signed form of a head, different each time."""
    signed = f"head {head.revision} {head.fingerprint} {secrets.token_hex(8)}".encode()
    return b"%b %b" % (signed, _head_mac(signed, key))


def verify_head(content: bytes, key: bytes) -> Head:
    """Return a signed head. Raise InvalidSignature."""
    signed, _, mac = content.rpartition(b" ")
    if not hmac.compare_digest(mac, _head_mac(signed, key)):
        raise InvalidSignature("head: wrong signature")
    _, revision, fingerprint, _ = signed.decode().split(" ")
    return Head(revision=int(revision), fingerprint=fingerprint)


def is_bare_digest(content: bytes) -> bool:
    """Return whether this is the digest that earlier releases published instead of a head."""
    return _BARE_DIGEST.fullmatch(content) is not None


def _head_mac(signed: bytes, key: bytes) -> bytes:
    return hmac.new(key, b"runqy head\0" + signed, hashlib.sha256).hexdigest().encode()
