"""Changes the configuration in one transaction and publishes it once that is committed."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial

import structlog
from django.conf import settings
from django.db import transaction

from runqy.audit.actors import ActorKind, current_actor
from runqy.broker import publication, timing
from runqy.broker.publication import PublishedDocument, PublishedHead, QueueToken
from runqy.connection import get_broker
from runqy.errors import BrokerUnavailable, KeyRequired
from runqy.publication import documents, snapshot
from runqy.publication.documents import Document, Kind
from runqy.publication.heads import Head, sign_head
from runqy.publication.models import Revision, StoredDocument

log = structlog.get_logger()

NOT_PUBLISHED = (
    "Saved, but not published: Redis is unavailable. Servers that reach the database apply the change within seconds; "
    "it is published once Redis is back."
)


@dataclass(slots=True, kw_only=True)
class Change:
    """A change of the configuration while its transaction is open."""

    revision: int
    """Higher than that of every change committed before; no other change is under way."""
    touched: dict[str, Document] = field(default_factory=dict)
    """What is to be published, by its field."""

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
        self._touch(row)
        return True

    def remove(self, kind: Kind, name: str) -> None:
        """Store that something is gone, for those who still have it."""
        row, _ = StoredDocument.objects.update_or_create(
            kind=kind,
            name=name,
            defaults={"body": None, "uses": [], "revision": self.revision, "effective": self.revision},
        )
        self._touch(row)

    def forget(self, kind: Kind, name: str) -> None:
        """Store that something is gone if it was ever stored."""
        if StoredDocument.objects.filter(kind=kind, name=name).exists():
            self.remove(kind, name)

    def renew(self, row: StoredDocument) -> None:
        """Publish the same again as something new."""
        row.revision = row.effective = self.revision
        row.save()
        self._touch(row)

    def _touch(self, row: StoredDocument) -> None:
        self.touched[row.field] = row.as_document()


@dataclass(slots=True)
class PublicationResult:
    """What became of the publications of a block."""

    is_published: bool = True
    """False: Redis does not have all that was changed; maintenance publishes it."""


_result: ContextVar[PublicationResult | None] = ContextVar("publication_result", default=None)


@contextmanager
def publication_result() -> Iterator[PublicationResult]:
    """Give what becomes of the publications of a block, as known when it ends."""
    result = PublicationResult()
    token = _result.set(result)
    try:
        yield result
    finally:
        _result.reset(token)


@contextmanager
def configuration_change(*, above: int = 0) -> Iterator[Change]:
    """Open a transaction in which configuration is read and changed, one change at a time; publish after the commit.

    The lock comes first, so that what is read inside is what the previous change left. `above`: the revision must be.
    Raises KeyRequired for a key that was revoked meanwhile, which this process may not know yet.
    """
    with transaction.atomic():
        change = Change(revision=_next_revision(above))
        _refuse_revoked_key()
        yield change
        if change.touched:
            transaction.on_commit(partial(_apply_and_publish, change.touched))


def publish(fields: frozenset[str]) -> None:
    """Sign what the database holds now about some things, and publish it. Raises BrokerUnavailable.

    Reading again after the commit, and the script's refusal of lower revisions, keep two savers in order.
    """
    names = [place.partition(":")[2] for place in fields]
    touched = [row for row in StoredDocument.objects.filter(name__in=names) if row.field in fields]
    publish_signed([signed_document(row) for row in touched])
    rows = list(StoredDocument.objects.defer("body"))
    concerned = [row for row in rows if row.kind == Kind.QUEUE and not fields.isdisjoint([row.field, *row.uses])]
    get_broker().run(publication.announce(queue_tokens(concerned, rows)))


def publish_signed(signed: Sequence[PublishedDocument], *, head_overwrites: bytes = b"") -> None:
    """Put signed documents into Redis, in calls of bounded size, and then the head of all that the database holds.

    `head_overwrites`: the head seen in Redis that gives way even if it is higher. Raises BrokerUnavailable.
    """
    broker, head = get_broker(), signed_head(overwrites=head_overwrites)
    *first, last = [*_chunks(signed)] or [[]]
    for chunk in first:
        _report_refusals(chunk, broker.run(publication.publish(chunk, head=None)).documents)
    outcomes = broker.run(publication.publish(last, head=head))
    _report_refusals(last, outcomes.documents)
    if outcomes.head == -1:  # another saver published a later one before these documents were there
        broker.run(publication.publish([], head=signed_head(overwrites=head_overwrites)))


def signed_head(*, overwrites: bytes = b"") -> PublishedHead:
    """Return the head of what the database holds, as it goes to Redis."""
    head = stored_head(StoredDocument.objects.defer("body", "uses"))
    content = sign_head(head, documents.signing_key(settings.SECRET_KEY))
    return PublishedHead(revision=head.revision, content=content, overwrites=overwrites)


def stored_head(rows: Iterable[StoredDocument]) -> Head:
    """Return the head of rows, which are all."""
    return Head.of((row.field, row.revision) for row in rows)


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


def _refuse_revoked_key() -> None:
    """Raise KeyRequired if the actor is a key that is no longer published: the lock shows what was committed last."""
    actor = current_actor()
    if actor.kind is not ActorKind.KEY or not actor.id:
        return
    known = StoredDocument.objects.filter(kind=Kind.API_KEY, name=actor.id, body__isnull=False)
    if not known.exists():
        raise KeyRequired("This API key was revoked.")


def _apply_and_publish(touched: Mapping[str, Document]) -> None:
    """Apply a committed change to this process, and publish it; if Redis is away maintenance does that later."""
    snapshot.apply(touched.values())
    try:
        publish(frozenset(touched))
    except BrokerUnavailable as error:
        log.warning("saved_but_not_published", documents=sorted(touched), error=error.detail)
        if result := _result.get():
            result.is_published = False


def _report_refusals(signed: Sequence[PublishedDocument], outcomes: Sequence[int]) -> None:
    """Log which documents are published already in a newer version."""
    for document, outcome in zip(signed, outcomes, strict=True):
        if outcome == -1:
            log.info("newer_document_is_published", document=document.field, revision=document.revision)


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
