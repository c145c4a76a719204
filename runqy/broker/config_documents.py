"""Store and read the published configuration: signed documents that only the server can produce."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from runqy.broker import keys
from runqy.broker.operation import Request
from runqy.broker.scripts import Value, command, script


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedDocument:
    """A document to be published."""

    field: str
    """`<kind>:<name>`"""
    revision: int
    content: bytes
    overwrites: str = ""
    """A stored revision to overwrite even if it is higher, because the server did not sign it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedHead:
    """The head document to be published."""

    revision: int
    content: bytes
    overwrites: bytes = b""
    """A stored head to overwrite even if it is higher, because the server did not sign it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishOutcomes:
    """The outcomes of a publication: 1 stored, 0 unchanged, -1 a newer revision is stored."""

    head: int
    documents: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueToken:
    """A queue's token to be published to workers."""

    queue: str
    token: int
    overwrites: str = ""
    """A stored token to overwrite even if it is higher."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedState:
    """Everything that is published, read at one point in time and not verified."""

    head: bytes | None
    documents: Mapping[str, bytes]
    revisions: Mapping[str, str]
    tokens: Mapping[str, str]


def publish(documents: Sequence[PublishedDocument], *, head: PublishedHead | None) -> Request[PublishOutcomes]:
    """Store documents and then the head, unless newer revisions are stored. Without a head, the stored one is kept."""
    quadruples: list[Value] = []
    for document in documents:
        quadruples += [document.field, document.revision, document.content, document.overwrites]
    call = script("publish_documents")(
        documents=keys.CONFIG_DOCUMENTS,
        revisions=keys.CONFIG_REVISIONS,
        head_key=keys.CONFIG_HEAD,
        head=head.content if head else b"",
        head_revision=head.revision if head else 0,
        head_overwrites=head.overwrites if head else b"",
        quadruples=quadruples,
    )
    return Request((call,), lambda replies: PublishOutcomes(head=replies[0][0], documents=replies[0][1:]))


def publish_over_head(document: PublishedDocument, *, seen_head: bytes, head: bytes) -> Request[bool]:
    """Store a document and the head that includes it, unless the stored head is no longer `seen_head`."""
    call = script("publish_over_head")(
        documents=keys.CONFIG_DOCUMENTS,
        revisions=keys.CONFIG_REVISIONS,
        head_key=keys.CONFIG_HEAD,
        seen_head=seen_head,
        head=head,
        field=document.field,
        revision=document.revision,
        content=document.content,
    )
    return Request((call,), lambda replies: replies[0] == 1)


def publish_queue_tokens(tokens: Iterable[QueueToken]) -> Request[int]:
    """Publish queue tokens to workers and return how many changed."""
    triples: list[Value] = []
    for token in tokens:
        triples += [token.queue, token.token, token.overwrites]
    call = script("publish_tokens")(tokens=keys.QUEUE_REVISIONS, channel=keys.CHANGED_CHANNEL, triples=triples)
    return Request((call,), lambda replies: int(replies[0]))


def remove_documents(fields: Sequence[str]) -> Request[int]:
    """Remove documents unconditionally. For documents unknown to the database; a deletion is itself a document."""
    call = script("remove_documents")(
        documents=keys.CONFIG_DOCUMENTS, revisions=keys.CONFIG_REVISIONS, fields=list(fields)
    )
    return Request((call,), lambda replies: int(replies[0]))


def read_head() -> Request[bytes | None]:
    """Return the head, unverified; None when nothing is published."""
    return Request((command("GET", keys.CONFIG_HEAD, key=keys.CONFIG_HEAD),), lambda replies: replies[0])


def read_revisions() -> Request[dict[str, str]]:
    """Return the stored revision of each document by field, unverified."""
    read = command("HGETALL", keys.CONFIG_REVISIONS, key=keys.CONFIG_REVISIONS)
    return Request((read,), lambda replies: _texts(replies[0]))


def read_documents(fields: Sequence[str]) -> Request[dict[str, bytes]]:
    read = command("HMGET", keys.CONFIG_DOCUMENTS, *fields, key=keys.CONFIG_DOCUMENTS)
    return Request(
        (read,), lambda replies: {f: content for f, content in zip(fields, replies[0], strict=True) if content}
    )


def read_all() -> Request[PublishedState]:
    """Return everything that is published. Not for a request path: it may be megabytes."""
    commands = (
        command("GET", keys.CONFIG_HEAD, key=keys.CONFIG_HEAD),
        command("HGETALL", keys.CONFIG_DOCUMENTS, key=keys.CONFIG_DOCUMENTS),
        command("HGETALL", keys.CONFIG_REVISIONS, key=keys.CONFIG_REVISIONS),
        command("HGETALL", keys.QUEUE_REVISIONS, key=keys.QUEUE_REVISIONS),
    )
    return Request(
        commands,
        lambda replies: PublishedState(
            head=replies[0],
            documents={_text(field): content for field, content in _pairs(replies[1])},
            revisions=_texts(replies[2]),
            tokens=_texts(replies[3]),
        ),
    )


def _pairs(reply: Mapping[bytes, bytes] | Sequence[bytes]) -> Iterable[tuple[bytes, bytes]]:
    """Yield the fields and values of a HGETALL reply, which is a map or a flat list."""
    if isinstance(reply, Mapping):
        return reply.items()
    return zip(reply[::2], reply[1::2], strict=True)


def _texts(reply: Mapping[bytes, bytes] | Sequence[bytes]) -> dict[str, str]:
    """Return the fields and values of a HGETALL reply as text."""
    return {_text(field): _text(value) for field, value in _pairs(reply)}


def _text(raw: bytes) -> str:
    """Decode untrusted text."""
    return raw.decode("utf-8", "backslashreplace")
