"""Saves and looks at documents, for the tests of this package."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from unittest.mock import patch

import pytest
from django.conf import settings
from django.db import OperationalError

from runqy.broker import keys
from runqy.configuration import snapshot
from runqy.configuration.documents import (
    Document,
    DocumentKind,
    sign,
    sign_revisions,
    signing_key,
    verify,
    verify_revisions,
)
from runqy.configuration.models import StoredDocument
from runqy.configuration.operations import configuration_change
from runqy.core.environment.connection_urls import RedisTarget


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
    """Let what the block saves be unknown to this process, which has just refreshed, as if another had saved it."""
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


def revisions(redis) -> dict[str, int]:
    """Return the published list of revisions, verified."""
    return verify_revisions(redis.get(keys.CONFIG_REVISIONS) or b"", signing_key(settings.SECRET_KEY))


_numbers = itertools.count(1)


def away() -> RedisTarget:
    """Return an address without a Redis, another one each time.

    Nothing listens on port 1. One that is only free now may be another test's Redis a moment later.
    """
    number = next(_numbers)
    return RedisTarget(addresses=((f"127.1.{number // 250}.{number % 250 + 1}", 1),))


def take_database_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail every read of stored documents, as a database that is down does."""

    def fail(**_: object) -> None:
        raise OperationalError("down")

    monkeypatch.setattr(StoredDocument.objects, "filter", fail)


def publish_elsewhere(redis, *published: Document, revisions: dict[str, int] | None = None) -> None:
    """Publish documents as a server does that reaches a database which this process does not."""
    key = signing_key(settings.SECRET_KEY)
    known = verify_revisions(redis.get(keys.CONFIG_REVISIONS) or b"", key)
    for document in published:
        redis.hset(keys.CONFIG_DOCUMENTS, document.field, sign(document, key))
        known[document.field] = document.revision
    redis.set(keys.CONFIG_REVISIONS, sign_revisions(known | (revisions or {}), key))
