"""Change the configuration in one transaction and publish it after the commit."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial

import structlog
from django.db import transaction

from runqy.audit.actors import ActorKind, current_actor
from runqy.audit.operations import record
from runqy.configuration import snapshot
from runqy.configuration.documents import Document, DocumentKind
from runqy.configuration.models import Revision, StoredDocument
from runqy.configuration.publishing import SyncStatus, compare_configuration, publish, republish_configuration
from runqy.errors import BrokerUnavailable, KeyRequired

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
        """Store a document, which is published after the commit.

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
                row.worker_revision = self.revision
            if row.pk is None:
                added.append(row)
            else:
                row.save()
            self._store(row)
        StoredDocument.objects.bulk_create(added)

    def remove(self, kind: DocumentKind, name: str) -> None:
        """Store a deletion, which is published like a change."""
        row, _ = StoredDocument.objects.update_or_create(
            kind=kind,
            name=name,
            defaults={"body": None, "uses": [], "revision": self.revision, "worker_revision": self.revision},
        )
        self._store(row)

    def forget(self, kind: DocumentKind, name: str) -> None:
        """Store a deletion if there is a document."""
        if StoredDocument.objects.filter(kind=kind, name=name).exists():
            self.remove(kind, name)

    def touch(self, row: StoredDocument) -> None:
        row.revision = row.worker_revision = self.revision
        row.save()
        self._store(row)

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        before = dict(self.touched)
        try:
            with transaction.atomic():
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
    """Yield a result that says, once the `with` block has ended, whether its changes were published."""
    result = PublicationResult()
    token = _result.set(result)
    try:
        yield result
    finally:
        _result.reset(token)


@contextmanager
def configuration_change(*, above: int = 0) -> Iterator[Change]:
    """Open a transaction in which one change at a time reads and changes the configuration; publish after the commit.

    The change's revision is higher than `above`. A change inside another joins it: both are published together, and an
    error undoes only the inner one. Raise KeyRequired if the actor's key has been revoked, even if this process does
    not know that yet.
    """
    if outer := _open.get():
        with outer.savepoint():
            yield outer
        return
    with transaction.atomic():
        # Lock first: what is read from here on is what the previous change left.
        change = Change(revision=_next_revision(above))
        _refuse_revoked_actor()
        token = _open.set(change)
        try:
            yield change
        finally:
            _open.reset(token)
        if change.touched:
            transaction.on_commit(partial(_apply_and_publish, change.touched))


def replace_configuration() -> SyncStatus:
    """Replace the published configuration by that of the database, even if Redis is newer, as after a restore.

    Raise BrokerUnavailable.
    """
    status = compare_configuration()
    with configuration_change(above=status.newest) as change:
        stored = {row.field: row for row in StoredDocument.objects.all()}
        for each in status.ahead:
            if row := stored.get(each):
                change.touch(row)
            else:
                kind, _, name = each.partition(":")
                change.remove(DocumentKind(kind), name)
        if change.touched:
            replaced = {"documents": (None, sorted(change.touched))}
            record(action="configuration.replaced", object_kind="configuration", object_name="redis", changes=replaced)
    # The commit published newer documents only; this repairs altered ones too.
    republish_configuration()
    return status


def _next_revision(above: int) -> int:
    """Lock the counter until the transaction ends, and increment it."""
    counter, _ = Revision.objects.select_for_update().get_or_create(pk=1)
    # Never behind the clock: a new database must be ahead of documents that an older one published.
    counter.value = max(counter.value + 1, above + 1, time.time_ns() // 1_000_000)
    counter.save()
    return counter.value


def _refuse_revoked_actor() -> None:
    actor = current_actor()
    if actor.kind is not ActorKind.KEY or not actor.id:
        return
    # The database, under the lock: this process's snapshot may be older than the revocation.
    keys = StoredDocument.objects.filter(kind=DocumentKind.API_KEY, name=actor.id, body__isnull=False)
    if not keys.exists():
        raise KeyRequired("This API key is revoked.")


def _apply_and_publish(touched: Mapping[str, Document]) -> None:
    # First to this process, which then serves its own change even if Redis is unavailable.
    snapshot.apply(touched.values())
    try:
        publish()
    except BrokerUnavailable as error:
        # The change is committed, so this is no error of the request: maintenance publishes it later.
        log.warning("configuration_not_published", documents=sorted(touched), error=str(error))
        if result := _result.get():
            result.is_published = False
