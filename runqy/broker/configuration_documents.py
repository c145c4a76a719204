"""Store and read the published configuration: signed documents that only the server can produce."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from runqy.broker import keys
from runqy.broker.request import Request
from runqy.broker.scripts import Value, command, script


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueRevision:
    """A queue's revision to be published to workers."""

    queue: str
    revision: int
    overwrites: str = ""
    """The stored revision that is overwritten even if it is higher."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedState:
    """Everything that is published, read at one point in time and not verified."""

    revisions: bytes
    """The signed list of revisions; empty if there is none."""
    documents: Mapping[str, bytes]
    """The signed documents by field, `<kind>:<name>`."""
    queue_revisions: Mapping[str, str]


def publish(
    documents: Mapping[str, bytes], *, removed: Sequence[str], seen_revisions: bytes, revisions: bytes
) -> Request[bool]:
    """Store documents and the list of all revisions; return False if the stored list is no longer `seen_revisions`."""
    values: list[Value] = [*removed]
    for field, content in documents.items():
        values += [field, content]
    call = script("publish_configuration")(
        documents=keys.CONFIG_DOCUMENTS,
        revisions=keys.CONFIG_REVISIONS,
        seen_revisions=seen_revisions,
        new_revisions=revisions,
        removed_count=len(removed),
        removed_and_pairs=values,
    )
    return Request((call,), lambda replies: replies[0] == 1)


def publish_queue_revisions(changed: Iterable[QueueRevision]) -> Request[int]:
    """Store the revisions of queues and notify their workers; return how many revisions changed."""
    triples: list[Value] = []
    for each in changed:
        triples += [each.queue, each.revision, each.overwrites]
    call = script("publish_queue_revisions")(
        revisions=keys.QUEUE_REVISIONS, channel=keys.CHANGED_CHANNEL, triples=triples
    )
    return Request((call,), lambda replies: int(replies[0]))


def read_revisions() -> Request[bytes]:
    """Return the signed list of revisions, unverified; empty if nothing is published."""
    return Request(
        (command("GET", keys.CONFIG_REVISIONS, key=keys.CONFIG_REVISIONS),), lambda replies: replies[0] or b""
    )


def read_documents(fields: Sequence[str]) -> Request[dict[str, bytes]]:
    read = command("HMGET", keys.CONFIG_DOCUMENTS, *fields, key=keys.CONFIG_DOCUMENTS)
    return Request(
        (read,), lambda replies: {f: content for f, content in zip(fields, replies[0], strict=True) if content}
    )


def read_all() -> Request[PublishedState]:
    """Return everything that is published. Not for a request path: it may be several megabytes."""
    commands = (
        command("GET", keys.CONFIG_REVISIONS, key=keys.CONFIG_REVISIONS),
        command("HGETALL", keys.CONFIG_DOCUMENTS, key=keys.CONFIG_DOCUMENTS),
        command("HGETALL", keys.QUEUE_REVISIONS, key=keys.QUEUE_REVISIONS),
    )
    return Request(
        commands,
        lambda replies: PublishedState(
            revisions=replies[0] or b"",
            documents={_text(field): content for field, content in _pairs(replies[1])},
            queue_revisions={_text(queue): _text(revision) for queue, revision in _pairs(replies[2])},
        ),
    )


def _pairs(reply: Mapping[bytes, bytes] | Sequence[bytes]) -> Iterable[tuple[bytes, bytes]]:
    """Return the fields and values of an HGETALL reply, which is a map or a flat list."""
    if isinstance(reply, Mapping):
        return reply.items()
    return zip(reply[::2], reply[1::2], strict=True)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")
