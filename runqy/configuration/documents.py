"""Published documents and the list of their revisions: kinds, formats and signatures.

In Redis a document is `<revision> <worker revision> <MAC in hex> <body>`; a deletion is a document without a body. The
list is `<MAC in hex> <JSON object of revisions by field>`.
"""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from runqy.core import signing


class DocumentKind(StrEnum):
    """The kind of object that a document describes."""

    QUEUE = "queue"
    VAULT = "vault"
    API_KEY = "api_key"
    RELEASES = "releases"
    """The release of a queue that is live, and the one that is rolling out, with its workers."""
    REDIS_QUEUES = "redis_queues"
    """The Redis queues of a queue as a JSON list, where they differ from those that its name alone implies."""
    ENDPOINT = "endpoint"
    """A webhook endpoint that is told of the ends of tasks: which queues it covers. It is removed while disabled."""


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
    return f"{kind}:{name}"


def signing_key(secret: str) -> bytes:
    """Derive the key that signs the published configuration from the server's secret key."""
    return signing.derive_key(secret, "runqy published configuration")


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
    return signing.sign(key, b"runqy revisions", listed)


def verify_revisions(content: bytes, key: bytes) -> dict[str, int]:
    """Return the revisions of a signed list, by field; empty for empty content. Raise InvalidSignature."""
    if not content:
        return {}
    listed = signing.verify(key, b"runqy revisions", signed=content)
    if listed is None:
        raise InvalidSignature("revisions: wrong signature")
    return msgspec.json.decode(listed, type=dict[str, int])


def _document_mac(field: str, revision: bytes, worker_revision: bytes, body: bytes, key: bytes) -> bytes:
    return signing.mac(key, b"runqy document", field.encode(), revision, worker_revision, body)
