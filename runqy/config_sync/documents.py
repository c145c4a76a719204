"""Published documents and the list of their revisions: kinds, formats and signatures.

In Redis a document is `<revision> <worker revision> <MAC in hex> <body>`; a deletion is a document without a body. The
list is `<MAC in hex> <JSON object of revisions by field>`.
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

import msgspec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


class DocumentKind(StrEnum):
    """The kind of object that a document describes."""

    QUEUE = "queue"
    VAULT = "vault"
    API_KEY = "api_key"
    REDEPLOYMENT = "redeployment"
    """A request to deploy a queue's newest commit; each one is a new revision."""
    REDIS_QUEUES = "redis_queues"
    """The Redis queues of a queue as a JSON list, where they differ from those that its name alone implies."""


class InvalidSignature(ValueError):
    """The content was not signed with the server's key for this field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """An object of the configuration at one revision."""

    kind: DocumentKind
    name: str
    revision: int
    body: bytes | None
    """JSON; None: deleted."""
    worker_revision: int
    """The revision of the last change that workers should notice."""

    @property
    def field(self) -> str:
        return field(self.kind, self.name)


def field(kind: DocumentKind, name: str) -> str:
    """Return the key of a document, in Redis's hash and in a snapshot."""
    return f"{kind}:{name}"


@lru_cache(maxsize=8)
def signing_key(secret: str) -> bytes:
    """Derive the key that signs the published configuration from the server's secret key."""
    hkdf = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"runqy published configuration")
    return hkdf.derive(secret.encode())


def sign(document: Document, key: bytes) -> bytes:
    revision, worker_revision, body = b"%d" % document.revision, b"%d" % document.worker_revision, document.body or b""
    mac = _document_mac(document.field, revision, worker_revision, body, key)
    return b" ".join((revision, worker_revision, mac, body))


def verify(field: str, content: bytes, key: bytes) -> Document:
    """Return the document of a field. Raise InvalidSignature unless it was signed for this field."""
    try:
        revision, worker_revision, mac, body = content.split(b" ", 3)
        kind, _, name = field.partition(":")
        document = Document(
            kind=DocumentKind(kind),
            name=name,
            revision=int(revision),
            worker_revision=int(worker_revision),
            body=body or None,
        )
    except ValueError as error:
        raise InvalidSignature(f"{field}: not a document") from error
    if not hmac.compare_digest(mac, _document_mac(field, revision, worker_revision, body, key)):
        raise InvalidSignature(f"{field}: wrong signature")
    return document


def sign_revisions(revisions: Mapping[str, int], key: bytes) -> bytes:
    """Return the signed list of the revisions of all documents, by field."""
    listed = msgspec.json.encode(revisions, order="deterministic")
    return _mac(key, b"runqy revisions", listed) + b" " + listed


def verify_revisions(content: bytes, key: bytes) -> dict[str, int]:
    """Return the revisions of a signed list, by field; empty for empty content. Raise InvalidSignature."""
    if not content:
        return {}
    mac, _, listed = content.partition(b" ")
    if not hmac.compare_digest(mac, _mac(key, b"runqy revisions", listed)):
        raise InvalidSignature("revisions: wrong signature")
    return msgspec.json.decode(listed, type=dict[str, int])


def _document_mac(field: str, revision: bytes, worker_revision: bytes, body: bytes, key: bytes) -> bytes:
    return _mac(key, b"runqy document", field.encode(), revision, worker_revision, body)


def _mac(key: bytes, *parts: bytes) -> bytes:
    """Return the MAC, in hex, of parts joined by NUL. Only the last part may contain NUL."""
    return hmac.new(key, b"\0".join(parts), hashlib.sha256).hexdigest().encode()
