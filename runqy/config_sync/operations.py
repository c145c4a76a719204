"""Change the configuration in one transaction and publish it after the commit."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial

import structlog
from django.conf import settings
from django.db import Error, transaction

from runqy.audit.actors import ActorKind, current_actor
from runqy.audit.operations import records_together
from runqy.broker import config_documents, constants
from runqy.broker.config_documents import PublishedDocument, PublishedHead, QueueToken
from runqy.config_sync import documents, polling, snapshot
from runqy.config_sync.documents import Document, DocumentKind, Head, sign_head
from runqy.config_sync.models import Revision, StoredDocument
from runqy.errors import BrokerUnavailable, KeyRequired
from runqy.redis_connection import get_broker

log = structlog.get_logger()

NOT_PUBLISHED = (
    "Saved, but not published: Redis is unavailable. Servers that reach the database apply the change within seconds. "
    "It is published when Redis is available again."
)


@dataclass(slots=True, kw_only=True)
class Change:
    """A change of the configuration in an open transaction."""

    revision: int
    """Higher than that of every committed change; no other change is open."""
    touched: dict[str, Document] = field(default_factory=dict)
    """Documents to publish, by field."""

    def put(
        self, kind: DocumentKind, name: str, body: bytes, *, uses: Sequence[str] = (), notify_workers: bool = True
    ) -> None:
        """Store what is to be published about something.

        `notify_workers=False` publishes a change that does not affect workers without notifying them.
        """
        self.put_all(kind, {name: (body, uses)}, notify_workers=notify_workers)

    def put_all(
        self, kind: DocumentKind, documents: Mapping[str, tuple[bytes, Sequence[str]]], *, notify_workers: bool = True
    ) -> None:
        """Store many documents, each a body and what it uses, by name."""
        stored = {row.name: row for row in StoredDocument.objects.filter(kind=kind, name__in=documents)}
        added: list[StoredDocument] = []
        for name, (body, uses) in documents.items():
            row = stored.get(name) or StoredDocument(kind=kind, name=name)
            if row.body is not None and bytes(row.body) == body and row.uses == list(uses):
                continue
            row.body, row.uses, row.revision = body, list(uses), self.revision
            if row.pk is None or notify_workers:
                row.effective = self.revision
            if row.pk is None:
                added.append(row)
            else:
                row.save()
            self._store(row)
        StoredDocument.objects.bulk_create(added)

    def adopt(self, document: Document) -> None:
        """Store what was published without the database, unless that holds something newer; workers know it already."""
        row = StoredDocument.objects.filter(kind=document.kind, name=document.name).first()
        row = row or StoredDocument(kind=document.kind, name=document.name)
        if row.pk and row.revision > document.revision:
            return
        row.body, row.revision, row.effective = document.body, self.revision, document.effective
        row.save()
        self._store(row)

    def remove(self, kind: DocumentKind, name: str) -> None:
        """Store a deletion, which is published like a change."""
        row, _ = StoredDocument.objects.update_or_create(
            kind=kind,
            name=name,
            defaults={"body": None, "uses": [], "revision": self.revision, "effective": self.revision},
        )
        self._store(row)

    def forget(self, kind: DocumentKind, name: str) -> None:
        """Store a deletion if there is a document."""
        if StoredDocument.objects.filter(kind=kind, name=name).exists():
            self.remove(kind, name)

    def touch(self, row: StoredDocument) -> None:
        """Publish a document again at a new revision."""
        row.revision = row.effective = self.revision
        row.save()
        self._store(row)

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Undo what a `with` block changes if it raises."""
        before = dict(self.touched)
        try:
            with transaction.atomic(), records_together():
                yield
        except BaseException:
            self.touched = before
            raise

    def _store(self, row: StoredDocument) -> None:
        self.touched[row.field] = row.as_document()


@dataclass(slots=True)
class PublicationResult:
    """Whether the changes of a block were published."""

    is_published: bool = True
    """False: some changes are not in Redis; maintenance publishes them."""


_result: ContextVar[PublicationResult | None] = ContextVar("publication_result", default=None)
_open: ContextVar[Change | None] = ContextVar("open_change", default=None)


@contextmanager
def publication_result() -> Iterator[PublicationResult]:
    """Give the result of the publications of a `with` block, final when it ends."""
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
    A change inside another one is part of it, and published with it; an error undoes only the inner one. Audit records
    are appended at the end of the outer one. Raise KeyRequired for a key that was revoked meanwhile, which this process
    may not know yet.
    """
    if outer := _open.get():
        with outer.savepoint():
            yield outer
        return
    with transaction.atomic(), records_together():
        change = Change(revision=_next_revision(above))
        _refuse_revoked_key()
        token = _open.set(change)
        try:
            yield change
        finally:
            _open.reset(token)
        if change.touched:
            transaction.on_commit(partial(_apply_and_publish, change.touched))


def publish(fields: frozenset[str]) -> None:
    """Sign what the database holds now about some things, and publish it. Raise BrokerUnavailable.

    Reading again after the commit, and the script's refusal of lower revisions, keep two savers in order.
    """
    names = [field.partition(":")[2] for field in fields]
    touched = [row for row in StoredDocument.objects.filter(name__in=names) if row.field in fields]
    publish_signed([signed_document(row) for row in touched])
    rows = list(StoredDocument.objects.defer("body"))
    concerned = [
        row for row in rows if row.kind == DocumentKind.QUEUE and not fields.isdisjoint([row.field, *row.uses])
    ]
    get_broker().run(config_documents.publish_queue_tokens(queue_tokens(concerned, rows)))


def publish_signed(signed: Sequence[PublishedDocument], *, head_overwrites: bytes = b"") -> None:
    """Put signed documents into Redis, in calls of bounded size, and then the head of all that the database holds.

    `head_overwrites`: the head seen in Redis that gives way even if it is higher. Raise BrokerUnavailable.
    """
    broker, head = get_broker(), signed_head(overwrites=head_overwrites)
    *first, last = [*_chunks(signed)] or [[]]
    for chunk in first:
        _report_refusals(chunk, broker.run(config_documents.publish(chunk, head=None)).documents)
    outcomes = broker.run(config_documents.publish(last, head=head))
    _report_refusals(last, outcomes.documents)
    if outcomes.head == -1:  # another saver published a later one before these documents were there
        broker.run(config_documents.publish([], head=signed_head(overwrites=head_overwrites)))


def signed_head(*, overwrites: bytes = b"") -> PublishedHead:
    """Return the signed head of all documents of the database."""
    head = stored_head(StoredDocument.objects.defer("body", "uses"))
    content = sign_head(head, documents.signing_key(settings.SECRET_KEY))
    return PublishedHead(revision=head.revision, content=content, overwrites=overwrites)


def stored_head(rows: Iterable[StoredDocument]) -> Head:
    """Return the head of all rows."""
    return Head.of((row.field, row.revision) for row in rows)


def signed_document(row: StoredDocument, *, overwrites: str = "") -> PublishedDocument:
    content = documents.sign(row.as_document(), documents.signing_key(settings.SECRET_KEY))
    return PublishedDocument(field=row.field, revision=row.revision, content=content, overwrites=overwrites)


def queue_tokens(queues: Sequence[StoredDocument], rows: Sequence[StoredDocument]) -> list[QueueToken]:
    """Return the tokens of queues, given all documents; deleted ones too, so that their workers register again."""
    revisions = {row.field: row.effective for row in rows}
    return [
        QueueToken(queue=row.name, token=documents.token([row.effective, *(revisions.get(use, 0) for use in row.uses)]))
        for row in queues
    ]


def _next_revision(above: int) -> int:
    """Lock the counter until the transaction ends, and count up.

    It never falls behind the clock, so that a new database is ahead of documents that an older one published.
    """
    counter, _ = Revision.objects.select_for_update().get_or_create(pk=1)
    counter.value = max(counter.value + 1, above + 1, time.time_ns() // 1_000_000)
    counter.save()
    return counter.value


def refuse_revoked_key(key_id: str) -> None:
    """Raise KeyRequired if a key is no longer published, which this process may not know yet.

    The database decides; ignored while it cannot be reached.
    """
    if not key_id or not polling.is_database_reachable():
        return
    try:
        _require_published_key(key_id)
    except Error as error:
        log.warning("key_not_checked", error=str(error))


def _refuse_revoked_key() -> None:
    """Raise KeyRequired if the actor is a key that is no longer published; checked under the lock."""
    actor = current_actor()
    if actor.kind is ActorKind.KEY and actor.id:
        _require_published_key(actor.id)


def _require_published_key(key_id: str) -> None:
    if not StoredDocument.objects.filter(kind=DocumentKind.API_KEY, name=key_id, body__isnull=False).exists():
        raise KeyRequired("This API key is revoked.")


def _apply_and_publish(touched: Mapping[str, Document]) -> None:
    """Apply a committed change to this process, and publish it; if that fails maintenance does it later."""
    snapshot.apply(touched.values())
    try:
        publish(frozenset(touched))
    except BrokerUnavailable as error:
        log.warning("saved_but_not_published", documents=sorted(touched), error=str(error))
        if result := _result.get():
            result.is_published = False


def _report_refusals(signed: Sequence[PublishedDocument], outcomes: Sequence[int]) -> None:
    """Log the documents whose published version is newer."""
    for document, outcome in zip(signed, outcomes, strict=True):
        if outcome == -1:
            log.info("newer_document_is_published", document=document.field, revision=document.revision)


def _chunks(signed: Sequence[PublishedDocument]) -> Iterator[list[PublishedDocument]]:
    """Split documents into calls that do not block Redis for long."""
    chunk: list[PublishedDocument] = []
    size = 0
    for document in signed:
        if chunk and size + len(document.content) > constants.BATCH_MAX_BYTES:
            yield chunk
            chunk, size = [], 0
        chunk.append(document)
        size += len(document.content)
    if chunk:
        yield chunk
