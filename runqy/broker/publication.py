"""Stores and reads the published configuration: signed documents, which only the server can make."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from runqy.broker import keys
from runqy.broker.operation import Request
from runqy.broker.scripts import Value, command, script


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedDocument:
    """A document on its way to Redis."""

    field: str
    """`<kind>:<name>`"""
    revision: int
    content: bytes
    overwrites: str = ""
    """The revision seen in Redis that is to give way even if it is higher, because the server did not sign it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedHead:
    """The head on its way to Redis."""

    revision: int
    content: bytes
    overwrites: bytes = b""
    """The head seen in Redis that is to give way even if it is higher, because the server did not sign it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishOutcomes:
    """What became of what was published: 1 stored, 0 left alone or there already, -1 a newer one stands."""

    head: int
    documents: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueToken:
    """The token of a queue on its way to the workers."""

    queue: str
    token: int
    overwrites: str = ""
    """The token seen in Redis that is to give way even if it is higher."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """All that is published at one moment, unverified."""

    head: bytes | None
    documents: Mapping[str, bytes]
    revisions: Mapping[str, str]
    tokens: Mapping[str, str]


def publish(documents: Sequence[PublishedDocument], *, head: PublishedHead | None) -> Request[PublishOutcomes]:
    """Store documents and then the head, each unless a newer one stands there; without a head that is left alone."""
    quadruples: list[Value] = []
    for document in documents:
        quadruples += [document.field, document.revision, document.content, document.overwrites]
    call = script("publish")(
        documents=keys.CONFIG_DOCUMENTS,
        revisions=keys.CONFIG_REVISIONS,
        head_key=keys.CONFIG_HEAD,
        head=head.content if head else b"",
        head_revision=head.revision if head else 0,
        head_overwrites=head.overwrites if head else b"",
        quadruples=quadruples,
    )
    return Request((call,), lambda replies: PublishOutcomes(head=replies[0][0], documents=replies[0][1:]))


def announce(tokens: Iterable[QueueToken]) -> Request[int]:
    """Tell workers of changed queues; returns how many tokens changed."""
    triples: list[Value] = []
    for token in tokens:
        triples += [token.queue, token.token, token.overwrites]
    call = script("announce")(tokens=keys.QUEUE_REVISIONS, channel=keys.CHANGED_CHANNEL, triples=triples)
    return Request((call,), lambda replies: int(replies[0]))


def remove_documents(fields: Sequence[str]) -> Request[int]:
    """Remove documents, whatever they say. For what the database does not know; a deletion is a document too."""
    call = script("remove_documents")(
        documents=keys.CONFIG_DOCUMENTS, revisions=keys.CONFIG_REVISIONS, fields=list(fields)
    )
    return Request((call,), lambda replies: int(replies[0]))


def read_head() -> Request[bytes | None]:
    """Return what changes with every publication, unverified; None when nothing is published."""
    return Request((command("GET", keys.CONFIG_HEAD, key=keys.CONFIG_HEAD),), lambda replies: replies[0])


def read_revisions() -> Request[dict[str, str]]:
    """Return the revision of each document by its field, as Redis claims."""
    read = command("HGETALL", keys.CONFIG_REVISIONS, key=keys.CONFIG_REVISIONS)
    return Request((read,), lambda replies: _texts(replies[0]))


def read_documents(fields: Sequence[str]) -> Request[dict[str, bytes]]:
    """Return the documents that stand in some fields."""
    read = command("HMGET", keys.CONFIG_DOCUMENTS, *fields, key=keys.CONFIG_DOCUMENTS)
    return Request(
        (read,), lambda replies: {f: content for f, content in zip(fields, replies[0], strict=True) if content}
    )


def read_all() -> Request[Standing]:
    """Return all that is published. Not for a request path: it can be megabytes."""
    commands = (
        command("GET", keys.CONFIG_HEAD, key=keys.CONFIG_HEAD),
        command("HGETALL", keys.CONFIG_DOCUMENTS, key=keys.CONFIG_DOCUMENTS),
        command("HGETALL", keys.CONFIG_REVISIONS, key=keys.CONFIG_REVISIONS),
        command("HGETALL", keys.QUEUE_REVISIONS, key=keys.QUEUE_REVISIONS),
    )
    return Request(
        commands,
        lambda replies: Standing(
            head=replies[0],
            documents={_text(field): content for field, content in _pairs(replies[1])},
            revisions=_texts(replies[2]),
            tokens=_texts(replies[3]),
        ),
    )


def _pairs(reply: Mapping[bytes, bytes] | Sequence[bytes]) -> Iterable[tuple[bytes, bytes]]:
    """Give the fields and values of a HGETALL, which arrives as a map or as a flat list."""
    if isinstance(reply, Mapping):
        return reply.items()
    return zip(reply[::2], reply[1::2], strict=True)


def _texts(reply: Mapping[bytes, bytes] | Sequence[bytes]) -> dict[str, str]:
    """Return the fields and values of a HGETALL as text."""
    return {_text(field): _text(value) for field, value in _pairs(reply)}


def _text(raw: bytes) -> str:
    """Return text that may have been written by anybody."""
    return raw.decode("utf-8", "backslashreplace")
