"""Publish rollouts of queues while the database is unavailable, and store them when it is back.

A rollout is the only document whose content is its revision, so a process can create one without the database: it signs
the document, and a head of all documents that it knows.
"""

import time
from collections.abc import Sequence

from django.conf import settings
from django.db import Error, connection

from runqy.broker import config_documents
from runqy.broker.config_documents import PublishedDocument, QueueToken
from runqy.circuit_breaker import BackgroundCall
from runqy.config_sync import snapshot
from runqy.config_sync.derived import Snapshot
from runqy.config_sync.documents import (
    Document,
    DocumentKind,
    Head,
    InvalidSignature,
    sign,
    sign_head,
    signing_key,
    verify_head,
)
from runqy.config_sync.models import StoredDocument
from runqy.config_sync.operations import configuration_change
from runqy.errors import ConfigurationUnconfirmed
from runqy.redis_connection import get_broker

ATTEMPTS = 5
"""Other processes may publish after this one has read the head and before it replaces it."""


def is_database_responding() -> bool:
    """Return whether the database responds to a query within a second.

    The time limits of the connection are longer, as slow statements have to finish.
    """
    return _probe.run() and _probe.error is None


def next_rollout() -> int:
    """Return the revision of a new rollout, above all known ones. Raise ConfigurationUnavailable."""
    return max(snapshot.current_snapshot().head.revision + 1, time.time_ns() // 1_000_000)


def publish_rollout(queue: str, revision: int) -> None:
    """Publish a rollout of a queue, and notify its workers. Does not use the database.

    Raise BrokerUnavailable, or ConfigurationUnconfirmed if Redis has not the configuration that this process knows.
    """
    document = Document(
        kind=DocumentKind.ROLLOUT, name=queue, revision=revision, body=b"%d" % revision, effective=revision
    )
    for _ in range(ATTEMPTS):
        if _publish(document):
            break
    else:
        raise ConfigurationUnconfirmed("The configuration in Redis is not the one that this server knows; try again.")
    get_broker().run(config_documents.publish_queue_tokens([QueueToken(queue=queue, token=revision)]))


def store_rollouts(published: Sequence[Document]) -> None:
    """Store rollouts published while the database was unavailable; those of deleted queues are deleted."""
    with configuration_change(above=max(document.revision for document in published)) as change:
        for document in published:
            queue = StoredDocument.objects.filter(
                kind=DocumentKind.QUEUE, name=document.name, body__isnull=False
            ).first()
            if queue is None:
                change.remove(DocumentKind.ROLLOUT, document.name)
                continue
            change.adopt(document)
            if document.field not in queue.uses:  # stored by a release without rollouts
                queue.uses = [*queue.uses, document.field]
                queue.save(update_fields=["uses"])


def _publish(document: Document) -> bool:
    """Publish a document unless there is a newer one. Return False if Redis and this process disagree now."""
    snapshot.refresh()
    known, broker, key = snapshot.current_snapshot(), get_broker(), signing_key(settings.SECRET_KEY)
    current = known.find(document.kind, document.name)
    if current is not None and current.revision >= document.revision:
        return True
    seen_head = broker.run(config_documents.read_head())
    if not _is_head_of(known, seen_head, key):
        return False
    revisions = {field: one.revision for field, one in known.documents.items()} | {document.field: document.revision}
    signed = PublishedDocument(field=document.field, revision=document.revision, content=sign(document, key))
    head = sign_head(Head.of(revisions.items()), key)
    if not broker.run(config_documents.publish_over_head(signed, seen_head=seen_head or b"", head=head)):
        return False
    snapshot.apply([document])
    return True


def _is_head_of(known: Snapshot, content: bytes | None, key: bytes) -> bool:
    """Return whether this is the signed head of a snapshot."""
    try:
        return content is not None and verify_head(content, key) == known.head
    except InvalidSignature:
        return False


def _select() -> None:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    finally:
        connection.close()  # this thread ends


_probe = BackgroundCall(_select, (Error,))
