"""The process's copy of the published configuration: verified, never older than before, at most a second behind.

`current_snapshot()` only reads memory. Callers that may block use `get_snapshot()`, which compares with Redis first
when that is due. An event loop runs `get_cache().refresh()` once a second, after a thread called `load_stored()`.
"""

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
from runqy.broker.operation import Operation, ask
from runqy.connection import get_broker
from runqy.errors import BrokerUnavailable, ConfigurationUnavailable
from runqy.publication.documents import Document, DocumentRefused, Kind, field, signing_key, unseal
from runqy.publication.models import StoredDocument

log = structlog.get_logger()
T = TypeVar("T")

MAX_AGE_S = 1.0
MAX_WAIT_S = 0.2
"""How long a caller that looks for what may not exist waits for the comparison of another one."""

_FOREVER = -1.0
"""What locks take for no time-out."""
_DOCUMENTS_AT_ONCE = 500
"""How many documents one request reads, so that an event loop serves others in between."""


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


class SnapshotCache:
    """The snapshot of a process. Reading it takes no lock and no I/O; several threads may refresh it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # held only while one snapshot takes the place of another
        self._snapshot: Snapshot | None = None
        self._digest: bytes | None = None
        self._failed_at = float("-inf")
        self.compared_at = float("-inf")
        """The monotonic time at which the last comparison began, or ended if it failed."""

    @property
    def is_empty(self) -> bool:
        """Return whether there is no snapshot yet."""
        return self._snapshot is None

    def current(self) -> Snapshot:
        """Return the snapshot. Raises ConfigurationUnavailable."""
        if self._snapshot is None:
            raise ConfigurationUnavailable
        return self._snapshot

    def is_stale(self, max_age_s: float = MAX_AGE_S) -> bool:
        """Return whether a comparison with Redis is due; not for a moment after one that failed."""
        now_s = clock.monotonic_s()
        is_recent = now_s - self.compared_at < max_age_s or now_s - self._failed_at < MAX_AGE_S
        return self.is_empty or not is_recent

    def refresh(self) -> Operation[None]:
        """Compare with Redis and take over what is newer; keep the snapshot when Redis is away or has no digest."""
        began_at = clock.monotonic_s()
        try:
            yield from self._compare()
        except BrokerUnavailable as error:
            self.note_failure(error)
        else:
            self.compared_at = max(self.compared_at, began_at)

    def note_failure(self, error: BrokerUnavailable) -> None:
        """Go on with the snapshot for a moment: a comparison that fails may take long, and so would the next one."""
        log.warning("configuration_not_compared", error=error.detail)
        self.compared_at = self._failed_at = clock.monotonic_s()

    def load_stored(self) -> None:
        """Take over what the database holds, where that is newer. Blocks.

        Called once when a process starts: it must not accept anything from Redis that is older.
        """
        try:
            rows = [row.as_document() for row in StoredDocument.objects.all()]
        except DatabaseError as error:
            log.warning("configuration_not_read_from_database", error=str(error))
            return
        self._take_over(rows)

    def forget_views(self) -> None:
        """Derive anew what is derived from the snapshot."""
        if self._snapshot is not None:
            self._snapshot = Snapshot(self._snapshot.documents)

    def _compare(self) -> Operation[None]:
        digest = yield from ask(publication.read_digest())
        if digest is None or (digest == self._digest and not self.is_empty):
            return
        known = self._snapshot.documents if self._snapshot else {}
        claimed = yield from ask(publication.read_revisions())
        differing = [place for place, revision in claimed.items() if _revision(known, place) != revision]
        newer: list[Document] = []
        for start in range(0, len(differing), _DOCUMENTS_AT_ONCE):
            found = yield from ask(publication.read_documents(differing[start : start + _DOCUMENTS_AT_ONCE]))
            newer += _acceptable(found, known)
        self._take_over(newer)
        self._digest = digest

    def _take_over(self, documents: Iterable[Document]) -> None:
        """Replace the snapshot by one with those of the documents that are newer."""
        with self._lock:
            known = self._snapshot.documents if self._snapshot else {}
            newer = {d.field: d for d in documents if d.field not in known or d.revision > known[d.field].revision}
            if newer or self._snapshot is None:
                self._snapshot = Snapshot({**known, **newer})


class BlockingRefresher:
    """Refreshes a cache for callers that may block, one comparison at a time.

    While one thread compares, the others go on with the snapshot they have. Those that need it compared now share a
    comparison that began after they asked.
    """

    def __init__(self, cache: SnapshotCache) -> None:
        self._cache = cache
        self._lock = threading.Lock()
        self._began_at = float("inf")

    def refresh_if_stale(self, max_age_s: float = MAX_AGE_S) -> None:
        """Compare with Redis unless that was done no longer ago than this, or is being done."""
        if self._cache.is_stale(max_age_s):
            self._refresh(0 if max_age_s > 0 else _FOREVER)

    def refresh(self) -> None:
        """Compare with Redis, waiting at most `MAX_WAIT_S` for a comparison of another thread that takes long."""
        if self._cache.is_stale(0):
            self._refresh(min(MAX_WAIT_S, max(0, self._began_at + MAX_WAIT_S - clock.monotonic_s())))

    def refresh_now(self) -> None:
        """Compare with Redis, or wait for a comparison that begins after now."""
        self._refresh(_FOREVER)

    def _refresh(self, wait_s: float) -> None:
        asked_at = clock.monotonic_s()
        if not self._lock.acquire(timeout=_FOREVER if self._cache.is_empty else wait_s):
            return
        try:
            if self._cache.is_empty or self._cache.compared_at <= asked_at:
                self._began_at = clock.monotonic_s()
                self._compare()
        finally:
            self._began_at = float("inf")
            self._lock.release()

    def _compare(self) -> None:
        if self._cache.is_empty:
            self._cache.load_stored()
        try:
            broker = get_broker()
        except BrokerUnavailable as error:
            self._cache.note_failure(error)
        else:
            broker.run(self._cache.refresh())


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


_cache = SnapshotCache()
_refresher = BlockingRefresher(_cache)


@receiver(setting_changed)
def _forget_views(**_: object) -> None:
    """Derive anew what depends on settings too. They change in tests only."""
    _cache.forget_views()


def get_cache() -> SnapshotCache:
    """Return the process's cache, for an event loop that refreshes it."""
    return _cache


def current_snapshot() -> Snapshot:
    """Return the process's snapshot without I/O. Raises ConfigurationUnavailable."""
    return _cache.current()


def get_snapshot(max_age_s: float = MAX_AGE_S) -> Snapshot:
    """Return the process's snapshot, compared with Redis no longer ago than this. Raises ConfigurationUnavailable."""
    _refresher.refresh_if_stale(max_age_s)
    return _cache.current()


def get_newest() -> Snapshot:
    """Return the snapshot, compared now, for what the last one does not have. Raises ConfigurationUnavailable.

    Anybody may ask for what does not exist. So while Redis hangs, this is the last one.
    """
    _refresher.refresh()
    return _cache.current()


def refresh() -> None:
    """Compare with Redis now, because this process has just published."""
    _refresher.refresh_now()


def forget() -> None:
    """Start over as a new process does. For tests, which change what is behind a process's back."""
    global _cache, _refresher  # noqa: PLW0603
    _cache = SnapshotCache()
    _refresher = BlockingRefresher(_cache)
