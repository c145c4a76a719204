"""The process's copy of the published configuration: verified, never older than before, at most a second behind.

`current_snapshot()` only reads memory. Callers that may block use `get_snapshot()`, which compares with Redis first
when that is due. Behind an event loop a thread does so once a second. In every web process another one takes what is
newer from the database (`runqy.publication.polling`), so that a revocation does not depend on Redis.
"""

import threading
from collections.abc import Iterable, Mapping

import structlog
from django.conf import settings
from django.core.signals import setting_changed
from django.db import Error as DatabaseUnreachable
from django.dispatch import receiver

from runqy import clock
from runqy.broker import publication
from runqy.broker.operation import Operation, ask
from runqy.connection import get_broker
from runqy.errors import BrokerUnavailable, ConfigurationUnavailable
from runqy.publication.derived import Snapshot
from runqy.publication.documents import Document, DocumentRefused, signing_key, unseal
from runqy.publication.heads import HeadProblem, SeenHead
from runqy.publication.models import StoredDocument

log = structlog.get_logger()

MAX_AGE_S = 1.0
MAX_WAIT_S = 0.2
"""How long a caller that looks for what may not exist waits for the comparison of another one."""

_FOREVER = -1.0
"""What locks take for no time-out."""
_DOCUMENTS_AT_ONCE = 500
"""How many documents one request reads, so that Redis serves others in between."""


class SnapshotCache:
    """The snapshot of a process. Reading it takes no lock and no I/O; several threads may refresh it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # held only while one snapshot takes the place of another
        self._snapshot: Snapshot | None = None
        self._stored_revision = -1
        """All that the database holds up to this revision was read."""
        self._redis = SeenHead()
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
        """Return why the head in Redis did not confirm the snapshot when it was compared last."""
        return self._redis.problem

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

    def is_confirmed(self) -> bool:
        """Return whether Redis or the database confirmed the snapshot within RUNQY_CONFIG_MAX_AGE."""
        return clock.monotonic_s() - self.confirmed_at <= settings.RUNQY_CONFIG_MAX_AGE_S

    def refresh(self) -> Operation[None]:
        """Compare with Redis and take over what is newer; keep the snapshot when Redis is away or has no head."""
        began_at = clock.monotonic_s()
        try:
            yield from self._compare(began_at)
        except BrokerUnavailable as error:
            self.note_failure(error)
        else:
            self.compared_at = max(self.compared_at, began_at)

    def note_failure(self, error: BrokerUnavailable) -> None:
        """Go on with the snapshot for a moment: a comparison that fails may take long, and so would the next one."""
        log.warning("configuration_not_compared", error=error.detail)
        self.compared_at = self._failed_at = clock.monotonic_s()

    def read_database(self) -> None:
        """Take over what was committed since the last call, in one query. Blocks. Raises django.db.Error.

        Revisions are committed in their order, so nothing is committed later below one that was read.
        """
        began_at = clock.monotonic_s()
        stored_revision = self._stored_revision
        rows = [row.as_document() for row in StoredDocument.objects.filter(revision__gt=stored_revision)]
        self.take_over(rows)
        self._stored_revision = max([self._stored_revision, *(row.revision for row in rows)])
        self.confirmed_at = max(self.confirmed_at, began_at)

    def load_stored(self) -> None:
        """Take over what the database holds, where that is newer; go on without it if it is away. Blocks.

        Called once when a process starts: it must not accept anything from Redis that is older.
        """
        try:
            self.read_database()
        except DatabaseUnreachable as error:
            log.warning("configuration_not_read_from_database", error=str(error))

    def apply(self, documents: Iterable[Document]) -> None:
        """Take over what this process has just committed. Nothing to do for one that has no snapshot yet."""
        if self._snapshot is not None:
            self.take_over(documents)

    def take_over(self, documents: Iterable[Document]) -> None:
        """Replace the snapshot by one with those of the documents that are newer, its derived values built."""
        with self._lock:
            known = self._snapshot.documents if self._snapshot else {}
            newer = {d.field: d for d in documents if d.field not in known or d.revision > known[d.field].revision}
            if newer or self._snapshot is None:
                replacement = Snapshot({**known, **newer}, before=self._snapshot)
                replacement.build_derived_values()
                self._snapshot = replacement

    def forget_derived_values(self) -> None:
        """Derive anew what is derived from the snapshot."""
        if self._snapshot is not None:
            self._snapshot = Snapshot(self._snapshot.documents)

    def _compare(self, began_at: float) -> Operation[None]:
        head = self._redis
        content = yield from ask(publication.read_head())
        head.see(content)
        if content is None or self._is_confirmed_by(head, began_at) or not head.is_due(began_at):
            return
        known = self._snapshot.documents if self._snapshot else {}
        claimed = yield from ask(publication.read_revisions())
        differing = [place for place, revision in claimed.items() if _revision(known, place) != revision]
        newer: list[Document] = []
        for start in range(0, len(differing), _DOCUMENTS_AT_ONCE):
            found = yield from ask(publication.read_documents(differing[start : start + _DOCUMENTS_AT_ONCE]))
            newer += _acceptable(found, known)
        self.take_over(newer)
        head.note_comparison(content, began_at)
        self._is_confirmed_by(head, began_at)

    def _is_confirmed_by(self, head: SeenHead, began_at: float) -> bool:
        """Return whether the head in Redis is that of the snapshot, and note when it was."""
        if self._snapshot is None or not head.confirms(self._snapshot.head):
            return False
        self.confirmed_at = max(self.confirmed_at, began_at)
        return True


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
        """Compare with Redis, or wait for a comparison that begins after now. Asks no database."""
        self._refresh(_FOREVER, loads_stored=False)

    def _refresh(self, wait_s: float, *, loads_stored: bool = True) -> None:
        asked_at = clock.monotonic_s()
        if not self._lock.acquire(timeout=_FOREVER if self._cache.is_empty else wait_s):
            return
        try:
            if self._cache.is_empty or self._cache.compared_at <= asked_at:
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
def _forget_derived_values(**_: object) -> None:
    """Derive anew what depends on settings too. They change in tests only."""
    _cache.forget_derived_values()


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
    """Compare with Redis now. Asks no database, also where there is no snapshot yet."""
    _refresher.refresh_now()


def apply(documents: Iterable[Document]) -> None:
    """Take over what this process has just committed, whether Redis can be reached or not."""
    _cache.apply(documents)


def is_confirmed() -> bool:
    """Return whether Redis or the database confirmed the snapshot within RUNQY_CONFIG_MAX_AGE; asks when it is due.

    Raises ConfigurationUnavailable.
    """
    get_snapshot()
    return _cache.is_confirmed()


def forget() -> None:
    """Start over as a new process does. For tests, which change what is behind a process's back."""
    global _cache, _refresher  # noqa: PLW0603
    _cache = SnapshotCache()
    _refresher = BlockingRefresher(_cache)
