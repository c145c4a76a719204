"""Saves and looks at documents, for the tests of this package."""

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from unittest.mock import patch

from django.conf import settings

from runqy.broker import keys
from runqy.broker.connection import RedisTarget
from runqy.publication import snapshot
from runqy.publication.documents import Document, Kind, signing_key, unseal
from runqy.publication.models import StoredDocument
from runqy.publication.operations import configuration_change
from tests.support.servers import free_port


def put(
    name: str, body: bytes = b"{}", *, kind: Kind = Kind.QUEUE, uses: Sequence[str] = (), is_quiet: bool = False
) -> None:
    """Save a document."""
    with configuration_change() as change:
        change.put(kind, name, body, uses=uses, is_quiet=is_quiet)


def remove(name: str, *, kind: Kind = Kind.QUEUE) -> None:
    """Delete a document."""
    with configuration_change() as change:
        change.remove(kind, name)


@contextmanager
def elsewhere() -> Iterator[None]:
    """Let what the block saves be unknown to this process, which has just compared, as if another had saved it."""
    snapshot.get_snapshot(0)
    with patch.object(snapshot, "apply"):
        yield


def revision(name: str) -> int:
    """Return the revision that the database holds."""
    return StoredDocument.objects.get(name=name).revision


def documents(redis) -> dict[str, Document]:
    """Return what is published, verified."""
    key = signing_key(settings.SECRET_KEY)
    published = redis.hgetall(keys.CONFIG_DOCUMENTS)
    return {place.decode(): unseal(place.decode(), content, key) for place, content in published.items()}


def away() -> RedisTarget:
    """Return a place where no Redis is."""
    return RedisTarget(addresses=(("127.0.0.1", free_port()),))


def plant(redis, place: str, content: bytes, claimed: int) -> None:
    """Write to Redis as somebody with its password could, past the server."""
    redis.hset(keys.CONFIG_DOCUMENTS, place, content)
    redis.hset(keys.CONFIG_REVISIONS, place, claimed)
    redis.set(keys.CONFIG_HEAD, secrets.token_hex(16))  # as releases without heads did
