"""The process's copy of the published configuration: verified, never older than before, at most a second behind.

`current_snapshot()` only reads memory. Callers that may block use `get_snapshot()`, which compares with Redis first
when due. Behind an event loop a thread does so once a second. In every web process another thread reads newer
configuration from the database (`runqy.config_sync.polling`), so that a revocation does not depend on Redis.
"""

import threading
from collections.abc import Iterable, Mapping

import structlog
from django.conf import settings
from django.core.signals import setting_changed
from django.db import Error as DatabaseUnreachable
from django.dispatch import receiver

from runqy import clock
from runqy.broker import config_documents
from runqy.broker.operation import Operation, ask
from runqy.config_sync.derived import Snapshot
from runqy.config_sync.documents import Document, InvalidSignature, signing_key, verify
from runqy.config_sync.head_check import HeadCheck, HeadProblem
from runqy.config_sync.models import StoredDocument
from runqy.errors import BrokerUnavailable, ConfigurationUnavailable
from runqy.failure_log import FailureLog
from runqy.redis_connection import get_broker

log = structlog.get_logger()

MAX_AGE_S = 1.0
MAX_WAIT_S = 0.2
"""How long a caller that looks for an unknown object waits for another thread's comparison."""

_FOREVER = -1.0
"""The time-out of a lock that waits forever."""
_DOCUMENTS_AT_ONCE = 500
"""How many documents one request reads, so that Redis serves other clients in between."""


class SnapshotCache:
    """The snapshot of a process. Reading it takes no lock and no I/O; several threads may refresh it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # held only while one snapshot replaces another
        self._snapshot: Snapshot | None = None
        self._stored_revision = -1
        """The database was read up to this revision."""
        self._redis = HeadCheck()
        self._failures = FailureLog("configuration_compared")
        self._failed_at = float("-inf")
        self.compared_at = float("-inf")
        """The monotonic time at which the last comparison began, or ended if it failed."""
        self.confirmed_at = float("-inf")
        """The monotonic time at which Redis or the database last had nothing newer."""

    @property
    def is_empty(self) -> bool:
        """Return whether there is no snapshot yet."""
        return self._snapshot is None

    @property
    def head_problem(self) -> HeadProblem | None:
        """Return why the last comparison did not confirm the snapshot."""
        return self._redis.problem

    def current(self) -> Snapshot:
        """Return the snapshot. Raise ConfigurationUnavailable."""
        if self._snapshot is None:
            raise ConfigurationUnavailable
        return self._snapshot

    def is_stale(self, max_age_s: float = MAX_AGE_S) -> bool:
        """Return whether a comparison with Redis is due; not within MAX_AGE_S after a failed one."""
        now_s = clock.monotonic_s()
        is_recent = now_s - self.compared_at < max_age_s or now_s - self._failed_at < MAX_AGE_S
        return self.is_empty or not is_recent

    def is_confirmed(self) -> bool:
        """Return whether Redis or the database confirmed the snapshot within RUNQY_CONFIG_MAX_AGE."""
        return clock.monotonic_s() - self.confirmed_at <= settings.RUNQY_CONFIG_MAX_AGE_S

    def refresh(self) -> Operation[None]:
        """Compare with Redis and apply newer documents; keep the snapshot if Redis is unavailable or has no head."""
        began_at = clock.monotonic_s()
        try:
            yield from self._compare(began_at)
        except BrokerUnavailable as error:
            self.record_failure(error)
        else:
            self.compared_at = max(self.compared_at, began_at)
            self._failures.record_success()

    def record_failure(self, error: BrokerUnavailable) -> None:
        """Keep the snapshot for MAX_AGE_S: another comparison would probably fail slowly too."""
        self._failures.record("configuration_not_compared", key=error.code, error=str(error))
        self.compared_at = self._failed_at = clock.monotonic_s()

    def read_database(self) -> None:
        """Apply what was committed since the last call, in one query. Blocks. Raise django.db.Error.

        Revisions are committed in order, so that no lower one can follow.
        """
        began_at = clock.monotonic_s()
        stored_revision = self._stored_revision
        rows = [row.as_document() for row in StoredDocument.objects.filter(revision__gt=stored_revision)]
        self.merge(rows)
        self._stored_revision = max([self._stored_revision, *(row.revision for row in rows)])
        self.confirmed_at = max(self.confirmed_at, began_at)

    def load_stored(self) -> None:
        """Apply the documents of the database; ignored if it is unavailable. Blocks.

        Called once when a process starts, which must not accept older documents from Redis.
        """
        try:
            self.read_database()
        except DatabaseUnreachable as error:
            log.warning("configuration_not_read_from_database", error=str(error))

    def apply(self, documents: Iterable[Document]) -> None:
        """Apply what this process has just committed. Ignored without a snapshot."""
        if self._snapshot is not None:
            self.merge(documents)

    def merge(self, documents: Iterable[Document]) -> None:
        """Replace the snapshot by one with the newer documents, after building its derived values."""
        with self._lock:
            known = self._snapshot.documents if self._snapshot else {}
            newer = {d.field: d for d in documents if d.field not in known or d.revision > known[d.field].revision}
            if newer or self._snapshot is None:
                replacement = Snapshot({**known, **newer}, before=self._snapshot)
                replacement.build_derived_values()
                self._snapshot = replacement

    def forget_derived_values(self) -> None:
        """Discard the derived values."""
        if self._snapshot is not None:
            self._snapshot = Snapshot(self._snapshot.documents)

    def _compare(self, began_at: float) -> Operation[None]:
        head = self._redis
        content = yield from ask(config_documents.read_head())
        head.update(content)
        if content is None or self._is_confirmed_by(head, began_at) or not head.is_due(began_at):
            return
        known = self._snapshot.documents if self._snapshot else {}
        claimed = yield from ask(config_documents.read_revisions())
        differing = [field for field, revision in claimed.items() if _revision(known, field) != revision]
        newer: list[Document] = []
        for start in range(0, len(differing), _DOCUMENTS_AT_ONCE):
            found = yield from ask(config_documents.read_documents(differing[start : start + _DOCUMENTS_AT_ONCE]))
            newer += _acceptable(found, known)
        self.merge(newer)
        head.record_comparison(content, began_at)
        self._is_confirmed_by(head, began_at)

    def _is_confirmed_by(self, head: HeadCheck, began_at: float) -> bool:
        """Return whether the head in Redis equals the snapshot's, and set `confirmed_at`."""
        if self._snapshot is None or not head.confirms(self._snapshot.head):
            return False
        self.confirmed_at = max(self.confirmed_at, began_at)
        return True


class BlockingRefresher:
    """Refreshes a cache for callers that may block, one comparison at a time.

    While one thread compares, the others use the existing snapshot. Those that need a comparison now share one that
    began after their call.
    """

    def __init__(self, cache: SnapshotCache) -> None:
        self._cache = cache
        self._lock = threading.Lock()
        self._began_at = float("inf")

    def refresh_if_stale(self, max_age_s: float = MAX_AGE_S) -> None:
        """Compare with Redis unless the last comparison is newer than `max_age_s`, or one is running."""
        if self._cache.is_stale(max_age_s):
            self._refresh(0 if max_age_s > 0 else _FOREVER)

    def refresh(self) -> None:
        """Compare with Redis, waiting at most `MAX_WAIT_S` for another thread's comparison."""
        if self._cache.is_stale(0):
            self._refresh(min(MAX_WAIT_S, max(0, self._began_at + MAX_WAIT_S - clock.monotonic_s())))

    def refresh_now(self) -> None:
        """Compare with Redis, or wait for a comparison that begins after this call. Does not read the database."""
        self._refresh(_FOREVER, loads_stored=False)

    def _refresh(self, wait_s: float, *, loads_stored: bool = True) -> None:
        requested_at = clock.monotonic_s()
        if not self._lock.acquire(timeout=_FOREVER if self._cache.is_empty else wait_s):
            return
        try:
            if self._cache.is_empty or self._cache.compared_at <= requested_at:
                self._began_at = clock.monotonic_s()
                self._compare(loads_stored=loads_stored)
        finally:
            self._began_at = float("inf")
            self._lock.release()

    def _compare(self, *, loads_stored: bool) -> None:
        if loads_stored and self._cache.is_empty:
            self._cache.load_stored()
        try:
            broker = get_broker()
        except BrokerUnavailable as error:
            self._cache.record_failure(error)
        else:
            broker.run(self._cache.refresh())


def _acceptable(found: Mapping[str, bytes], known: Mapping[str, Document]) -> Iterable[Document]:
    """Yield the documents that are signed and newer than the known ones; log the others."""
    key = signing_key(settings.SECRET_KEY)
    for field, content in found.items():
        try:
            document = verify(field, content, key)
        except InvalidSignature as error:
            log.error("published_document_refused", reason=str(error))  # noqa: TRY400 (the traceback adds nothing)
            continue
        seen = known.get(field)
        if seen is None or document.revision > seen.revision:
            yield document
        elif document.revision < seen.revision:
            log.error("published_document_refused", reason=f"{field}: older than one seen before")


def _revision(known: Mapping[str, Document], field: str) -> str:
    """Return a document's revision in Redis's format."""
    return str(known[field].revision) if field in known else ""


_cache = SnapshotCache()
_refresher = BlockingRefresher(_cache)


@receiver(setting_changed)
def _forget_derived_values(**_: object) -> None:
    """Discard derived values, which may depend on settings. Settings change only in tests."""
    _cache.forget_derived_values()


def get_cache() -> SnapshotCache:
    """Return the process's cache, for an event loop that refreshes it."""
    return _cache


def current_snapshot() -> Snapshot:
    """Return the process's snapshot without I/O. Raise ConfigurationUnavailable."""
    return _cache.current()


def get_snapshot(max_age_s: float = MAX_AGE_S) -> Snapshot:
    """Return the process's snapshot, compared with Redis within `max_age_s`. Raise ConfigurationUnavailable."""
    _refresher.refresh_if_stale(max_age_s)
    return _cache.current()


def get_newest() -> Snapshot:
    """Return the snapshot, compared now, to look for an unknown object. Raise ConfigurationUnavailable.

    Any client can request unknown objects, so this does not wait while Redis hangs.
    """
    _refresher.refresh()
    return _cache.current()


def refresh() -> None:
    """Compare with Redis now. Does not read the database, even without a snapshot."""
    _refresher.refresh_now()


def apply(documents: Iterable[Document]) -> None:
    """Apply what this process has just committed, even if Redis is unavailable."""
    _cache.apply(documents)


def is_confirmed() -> bool:
    """Return whether Redis or the database confirmed the snapshot within RUNQY_CONFIG_MAX_AGE; compare first if due.

    Raise ConfigurationUnavailable.
    """
    get_snapshot()
    return _cache.is_confirmed()


def forget() -> None:
    """Discard the snapshot. For tests, which change Redis and the database directly."""
    global _cache, _refresher  # noqa: PLW0603
    _cache = SnapshotCache()
    _refresher = BlockingRefresher(_cache)
