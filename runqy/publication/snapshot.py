"""The process's copy of the published configuration: verified, never older than before, at most a second behind."""

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar, cast

import structlog
from django.conf import settings
from django.core.signals import setting_changed
from django.db import DatabaseError
from django.dispatch import receiver

from runqy import clock
from runqy.broker import publication
from runqy.connection import get_broker
from runqy.errors import BrokerUnavailable, ConfigurationUnavailable
from runqy.publication.documents import Document, DocumentRefused, Kind, field, signing_key, unseal
from runqy.publication.models import StoredDocument

log = structlog.get_logger()
T = TypeVar("T")

MAX_AGE_S = 1.0
PATIENCE_S = 0.2
"""How long a comparison may take before those that look for what may not exist no longer wait for it."""

_FOREVER = -1.0
"""What locks take for no end of patience."""


class Snapshot:
    """The configuration at one moment. Immutable; what is derived from it is kept with it."""

    def __init__(self, documents: Mapping[str, Document]) -> None:
        self.documents = documents
        self._views: dict[object, object] = {}

    def of_kind(self, kind: Kind) -> dict[str, Document]:
        """Return the documents of a kind by name, without the deleted."""
        return {d.name: d for d in self.documents.values() if d.kind == kind and d.body is not None}

    def find(self, kind: Kind, name: str) -> Document | None:
        """Return a document unless there is none or it is deleted."""
        document = self.documents.get(field(kind, name))
        return document if document is not None and document.body is not None else None

    def effective_revision_of(self, place: str) -> int:
        """Return the revision of the last change of what stands in a field that workers notice, 0 if nothing does."""
        document = self.documents.get(place)
        return document.effective if document else 0

    def view(self, key: object, build: Callable[["Snapshot"], T]) -> T:
        """Return what a function makes of the snapshot, made once for each key."""
        found = self._views.get(key)
        if found is None:
            found = self._views.setdefault(key, build(self))
        return cast("T", found)


class SnapshotKeeper:
    """Keeps a snapshot current for all threads of a process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._snapshot: Snapshot | None = None
        self._digest: bytes | None = None
        self._checked_at = self._failed_at = float("-inf")
        self._began_at = float("inf")

    def current(self, max_age_s: float = MAX_AGE_S, *, is_patient: bool = True) -> Snapshot:
        """Return the snapshot, compared with Redis no longer than this ago.

        While one thread compares, the others go on with what there is; those that want it compared now share a
        comparison that began after they asked, unless they have no patience with one that takes long. After one that
        failed, nobody tries again for a moment. Raises ConfigurationUnavailable.
        """
        snapshot = self._snapshot
        asked_at = clock.monotonic_s()
        if snapshot is not None and (asked_at - self._checked_at < max_age_s or asked_at - self._failed_at < MAX_AGE_S):
            return snapshot
        patience_s = self._patience_s(asked_at, max_age_s, is_patient=is_patient)
        if not self._lock.acquire(timeout=_FOREVER if snapshot is None else patience_s):
            return cast("Snapshot", snapshot)
        try:
            return self._snapshot if self._snapshot and self._checked_at > asked_at else self._refresh()
        finally:
            self._began_at = float("inf")
            self._lock.release()

    def _patience_s(self, asked_at: float, max_age_s: float, *, is_patient: bool) -> float:
        """Return how long to wait for a comparison that others make."""
        if max_age_s > 0:
            return 0
        if is_patient:
            return _FOREVER
        return min(PATIENCE_S, max(0, self._began_at + PATIENCE_S - asked_at))

    def expire(self) -> None:
        """Compare with Redis at the next use, because this process has just published."""
        self._checked_at = self._failed_at = float("-inf")

    def forget_views(self) -> None:
        """Let what is derived from the snapshot be made once more."""
        if self._snapshot is not None:
            self._snapshot = Snapshot(self._snapshot.documents)

    def _refresh(self) -> Snapshot:
        """Compare with Redis and take over what is newer; without Redis, keep what there is."""
        checked_at = self._began_at = clock.monotonic_s()
        snapshot = self._snapshot or _stored_snapshot()
        try:
            snapshot = self._take_over(snapshot)
        except BrokerUnavailable as error:
            log.warning("configuration_not_compared", error=error.detail)
            checked_at = self._failed_at = clock.monotonic_s()  # it may have taken long, and the next would as well
        if snapshot is None:
            raise ConfigurationUnavailable
        self._snapshot, self._checked_at = snapshot, checked_at
        return snapshot

    def _take_over(self, snapshot: Snapshot | None) -> Snapshot | None:
        """Return the snapshot with what Redis has newer; the same one when the digest is missing or as before."""
        broker = get_broker()
        digest = broker.run(publication.read_digest())
        if digest is None or (digest == self._digest and snapshot is not None):
            return snapshot
        known = snapshot.documents if snapshot else {}
        claimed = broker.run(publication.read_revisions())
        differing = [place for place, revision in claimed.items() if _revision(known, place) != revision]
        found = broker.run(publication.read_documents(differing)) if differing else {}
        newer = {document.field: document for document in _acceptable(found, known)}
        self._digest = digest
        return Snapshot({**known, **newer}) if newer or snapshot is None else snapshot


def _stored_snapshot() -> Snapshot | None:
    """Return the configuration that the database holds, or None when it is away.

    Read once when a process starts: what Redis says must not be older than this.
    """
    try:
        rows = [row.as_document() for row in StoredDocument.objects.all()]
    except DatabaseError as error:
        log.warning("configuration_not_read_from_database", error=str(error))
        return None
    return Snapshot({document.field: document for document in rows})


def _acceptable(found: Mapping[str, bytes], known: Mapping[str, Document]) -> Iterable[Document]:
    """Give the documents that the server signed and that are newer than those known; report the others."""
    key = signing_key(settings.SECRET_KEY)
    for place, content in found.items():
        try:
            document = unseal(place, content, key)
        except DocumentRefused as error:
            log.error("published_document_refused", reason=str(error))  # noqa: TRY400 (the trace says nothing more)
            continue
        seen = known.get(place)
        if seen is None or document.revision > seen.revision:
            yield document
        elif document.revision < seen.revision:
            log.error("published_document_refused", reason=f"{place}: older than one seen before")


def _revision(known: Mapping[str, Document], place: str) -> str:
    """Return a document's revision as Redis spells it."""
    return str(known[place].revision) if place in known else ""


_keeper = SnapshotKeeper()


@receiver(setting_changed)
def _forget_views(**_: object) -> None:
    """Derive anew what depends on settings too. They change in tests only."""
    _keeper.forget_views()


def get_snapshot(max_age_s: float = MAX_AGE_S) -> Snapshot:
    """Return the process's snapshot, no older than this. Raises ConfigurationUnavailable."""
    return _keeper.current(max_age_s)


def get_newest() -> Snapshot:
    """Return the snapshot, compared now, for what the last one does not have. Raises ConfigurationUnavailable.

    Anybody may ask for what does not exist. So while Redis hangs, this is the last one.
    """
    return _keeper.current(0, is_patient=False)


def expire() -> None:
    """Compare with Redis at the next use."""
    _keeper.expire()


def forget() -> None:
    """Start over as a new process does. For tests, which change what is behind a process's back."""
    global _keeper  # noqa: PLW0603
    _keeper = SnapshotKeeper()
