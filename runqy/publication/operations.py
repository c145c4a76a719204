"""Changes the configuration in one transaction and publishes it once that is committed."""

import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import structlog
from django.conf import settings
from django.db import transaction

from runqy.broker import publication, timing
from runqy.broker.publication import PublishedDocument, QueueToken
from runqy.connection import get_broker
from runqy.errors import BrokerUnavailable
from runqy.publication import documents, snapshot
from runqy.publication.documents import Kind
from runqy.publication.models import Revision, StoredDocument

log = structlog.get_logger()


@dataclass(slots=True, kw_only=True)
class Change:
    """A change of the configuration while its transaction is open."""

    revision: int
    """Higher than that of every change committed before; no other change is under way."""
    touched: set[str] = field(default_factory=set)

    def put(self, kind: Kind, name: str, body: bytes, *, uses: Sequence[str] = (), is_quiet: bool = False) -> bool:
        """Store what is to be published about something; returns whether it differs from what was stored.

        `is_quiet`: it means to workers what it did before, and they are not told.
        """
        row = StoredDocument.objects.filter(kind=kind, name=name).first() or StoredDocument(kind=kind, name=name)
        if row.pk and row.body is not None and bytes(row.body) == body and row.uses == list(uses):
            return False
        row.body, row.uses, row.revision = body, list(uses), self.revision
        if row.pk is None or not is_quiet:
            row.effective = self.revision
        row.save()
        self.touched.add(documents.field(kind, name))
        return True

    def remove(self, kind: Kind, name: str) -> None:
        """Store that something is gone, for those who still have it."""
        StoredDocument.objects.update_or_create(
            kind=kind,
            name=name,
            defaults={"body": None, "uses": [], "revision": self.revision, "effective": self.revision},
        )
        self.touched.add(documents.field(kind, name))

    def forget(self, kind: Kind, name: str) -> None:
        """Store that something is gone if it was ever stored."""
        if StoredDocument.objects.filter(kind=kind, name=name).exists():
            self.remove(kind, name)

    def renew(self, row: StoredDocument) -> None:
        """Publish the same again as something new."""
        row.revision = row.effective = self.revision
        row.save()
        self.touched.add(row.field)


@contextmanager
def configuration_change(*, above: int = 0) -> Iterator[Change]:
    """Open a transaction in which configuration is read and changed, one change at a time; publish after the commit.

    The lock comes first, so that what is read inside is what the previous change left. `above`: the revision must be.
    """
    with transaction.atomic():
        change = Change(revision=_next_revision(above))
        yield change
        if change.touched:
            transaction.on_commit(partial(_publish_or_warn, frozenset(change.touched)))


def publish(fields: frozenset[str]) -> None:
    """Sign what the database holds now about some things, and publish it. Raises BrokerUnavailable.

    Reading again after the commit, and the script's refusal of lower revisions, keep two savers in order.
    """
    names = [place.partition(":")[2] for place in fields]
    touched = [row for row in StoredDocument.objects.filter(name__in=names) if row.field in fields]
    broker = get_broker()
    publish_signed([signed_document(row) for row in touched])
    rows = list(StoredDocument.objects.defer("body"))
    concerned = [row for row in rows if row.kind == Kind.QUEUE and not fields.isdisjoint([row.field, *row.uses])]
    broker.run(publication.announce(queue_tokens(concerned, rows)))
    snapshot.refresh()


def publish_signed(signed: Sequence[PublishedDocument]) -> list[str]:
    """Put signed documents into Redis, in calls of bounded size; returns the fields that were stored."""
    stored: list[str] = []
    for chunk in _chunks(signed):
        outcomes = get_broker().run(publication.publish(chunk, new_digest=secrets.token_hex(16)))
        stored += [document.field for document, outcome in zip(chunk, outcomes, strict=True) if outcome == 1]
        for document, outcome in zip(chunk, outcomes, strict=True):
            if outcome == -1:
                log.info("newer_document_is_published", document=document.field, revision=document.revision)
    return stored


def signed_document(row: StoredDocument, *, overwrites: str = "") -> PublishedDocument:
    """Return a row as it goes to Redis."""
    content = documents.seal(row.as_document(), documents.signing_key(settings.SECRET_KEY))
    return PublishedDocument(field=row.field, revision=row.revision, content=content, overwrites=overwrites)


def queue_tokens(queues: Sequence[StoredDocument], rows: Sequence[StoredDocument]) -> list[QueueToken]:
    """Return the tokens of queues, given all documents. Deleted ones have one too: their workers are to ask again."""
    revisions = {row.field: row.effective for row in rows}
    return [
        QueueToken(queue=row.name, token=documents.token([row.effective, *(revisions.get(use, 0) for use in row.uses)]))
        for row in queues
    ]


def _next_revision(above: int) -> int:
    """Lock the counter until the transaction ends, and count up.

    It never falls behind the clock, so that a database started afresh is ahead of what an older one published.
    """
    counter, _ = Revision.objects.select_for_update().get_or_create(pk=1)
    counter.value = max(counter.value + 1, above + 1, time.time_ns() // 1_000_000)
    counter.save()
    return counter.value


def _publish_or_warn(fields: frozenset[str]) -> None:
    """Publish a committed change; if Redis is away maintenance does it later."""
    try:
        publish(fields)
    except BrokerUnavailable as error:
        log.warning("saved_but_not_published", documents=sorted(fields), error=error.detail)


def _chunks(signed: Sequence[PublishedDocument]) -> Iterator[list[PublishedDocument]]:
    """Cut documents into calls that do not block Redis for long."""
    chunk: list[PublishedDocument] = []
    size = 0
    for document in signed:
        if chunk and size + len(document.content) > timing.BATCH_MAX_BYTES:
            yield chunk
            chunk, size = [], 0
        chunk.append(document)
        size += len(document.content)
    if chunk:
        yield chunk
