"""Saves and looks at documents, for the tests of this package."""

import itertools
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from unittest.mock import patch

from django.conf import settings

from runqy.broker import keys
from runqy.broker.connection.redis_client import RedisTarget
from runqy.config_sync import snapshot
from runqy.config_sync.documents import Document, DocumentKind, signing_key, verify
from runqy.config_sync.models import StoredDocument
from runqy.config_sync.operations import configuration_change


def put(
    name: str,
    body: bytes = b"{}",
    *,
    kind: DocumentKind = DocumentKind.QUEUE,
    uses: Sequence[str] = (),
    notify_workers: bool = True,
) -> None:
    """Save a document."""
    with configuration_change() as change:
        change.put(kind, name, body, uses=uses, notify_workers=notify_workers)


def remove(name: str, *, kind: DocumentKind = DocumentKind.QUEUE) -> None:
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
    return {field.decode(): verify(field.decode(), content, key) for field, content in published.items()}


_numbers = itertools.count(1)


def away() -> RedisTarget:
    """Return an address without a Redis, another one each time.

    Nothing listens on port 1. One that is only free now may be another test's Redis a moment later.
    """
    number = next(_numbers)
    return RedisTarget(addresses=((f"127.1.{number // 250}.{number % 250 + 1}", 1),))


def plant(redis, key: str, content: bytes, claimed: int) -> None:
    """Write to Redis as a client with its password could, past the server."""
    redis.hset(keys.CONFIG_DOCUMENTS, key, content)
    redis.hset(keys.CONFIG_REVISIONS, key, claimed)
    redis.set(keys.CONFIG_HEAD, secrets.token_hex(16))  # as releases without heads did
