"""The process's snapshot of the configuration, which requests read without I/O, and values computed from it once.

Web and maintenance processes read newer documents from the database once a second, on a thread of their own, and from
the signed copy in Redis only while the database fails or hangs. A process applies its own changes at once. Other
processes, such as management commands, refresh a snapshot that is older than a second when they use it.
"""

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar, cast

import structlog
from django.conf import settings
from django.db import Error as DatabaseUnreachable
from django.db import connection

from runqy import clock
from runqy.broker import configuration_documents
from runqy.configuration.documents import (
    Document,
    DocumentKind,
    InvalidSignature,
    field,
    signing_key,
    verify,
    verify_revisions,
)
from runqy.configuration.models import StoredDocument
from runqy.core.telemetry.failure_log import FailureLog
from runqy.errors import BrokerUnavailable, ConfigurationUnavailable
from runqy.redis_connection import get_broker

T = TypeVar("T")
log = structlog.get_logger()

POLL_EVERY_S = 1.0
HANGS_AFTER_S = 1.2
"""How long the database may hang before Redis is read instead."""
CHECK_EVERY_S = 0.3
PROPAGATION_S = HANGS_AFTER_S + CHECK_EVERY_S
"""How long after its publication a change is known to every process that reaches either store."""

CONFIRMED_FOR_S = 60
"""How long secrets and administration are served after a store has last confirmed the configuration."""
MAX_AGE_S = POLL_EVERY_S
NEWEST_WAIT_S = 1.0
"""How long a caller that needs the newest configuration waits before it uses the known one."""
FIRST_WAIT_S = 10.0
"""The same while nothing is known yet. If a store fails the wait ends; if one hangs, the other is read."""
UNKNOWN_WAIT_S = 0.2
"""The same for a caller that looks for an unknown object. Short, since any client can send unknown names."""
_DOCUMENTS_AT_ONCE = 500
"""How many documents one request reads, so that Redis serves other clients in between."""

_snapshot_values: "list[SnapshotValue[Any]]" = []


class Snapshot:
    """The configuration at one time. Immutable; caches the values computed from it."""

    def __init__(self, documents: Mapping[str, Document], before: "Snapshot | None" = None) -> None:
        """`documents` are by field; decoded documents of the snapshot `before` are reused."""
        self.documents = documents
        self.revisions = {field: document.revision for field, document in documents.items()}
        decoded = before._decoded if before else {}  # noqa: SLF001 (of the same class)
        self._decoded: dict[object, dict[str, tuple[Document, Any]]] = dict(decoded)
        self._computed: dict[object, Any] = {}

    def of_kind(self, kind: DocumentKind) -> dict[str, Document]:
        """Return the documents of a kind by name, without deleted ones."""
        return {d.name: d for d in self.documents.values() if d.kind == kind and d.body is not None}

    def find(self, kind: DocumentKind, name: str) -> Document | None:
        """Return a document; None if it does not exist or is deleted."""
        document = self.documents.get(field(kind, name))
        return document if document is not None and document.body is not None else None

    def worker_revision(self, fields: Iterable[str]) -> int:
        """Return the revision of the last change of any of these documents that workers notice."""
        return max((self.documents[each].worker_revision for each in fields if each in self.documents), default=0)

    def decode(self, kind: DocumentKind, decode: Callable[[Document], T]) -> dict[str, T]:
        """Return the decoded documents of a kind by name; those of the previous snapshot are not decoded again.

        Pass the same function each time: results are cached by it.
        """
        known = self._decoded.get(decode, {})
        decoded = {}
        for name, document in self.of_kind(kind).items():
            before = known.get(name)
            decoded[name] = before if before and before[0] is document else (document, decode(document))
        self._decoded[decode] = decoded
        return {name: cast("T", value) for name, (_, value) in decoded.items()}

    def compute_values(self) -> None:
        """Compute all values. One that fails is computed again when it is read, which raises its error."""
        for value in _snapshot_values:
            try:
                value.of(self)
            except Exception:  # noqa: BLE001, S112 (an unreadable document must not delay revocations)
                continue

    def compute(self, key: object, function: "Callable[[Snapshot], T]") -> T:
        if key not in self._computed:
            # Two threads may compute at once: both return the first result.
            self._computed.setdefault(key, function(self))
        return cast("T", self._computed[key])


class SnapshotValue(Generic[T]):
    """A value computed from each snapshot, once, by the thread that loads it, so that an event loop only reads it."""

    def __init__(self, function: Callable[[Snapshot], T]) -> None:
        self._function = function
        _snapshot_values.append(self)

    def of(self, snapshot: Snapshot) -> T:
        return snapshot.compute(self, self._function)

    def current(self) -> T:
        """Return the value of the process's snapshot. Raise ConfigurationUnavailable if there is none yet."""
        return self.of(_cache.current())


class SnapshotCache:
    """The snapshot of a process. Reading it takes no lock and no I/O; several threads may refresh it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # held only while one snapshot replaces another
        self._snapshot: Snapshot | None = None
        # The database was read up to this revision.
        self._stored_revision = -1
        self._database_failures = FailureLog("configuration_read_from_database")
        self._redis_failures = FailureLog("configuration_read_from_redis")
        # The monotonic time at which the last refresh ended.
        self.refreshed_at = float("-inf")
        # The monotonic time at which the database, or Redis instead of it, last had nothing newer.
        self.confirmed_at = float("-inf")

    @property
    def is_empty(self) -> bool:
        return self._snapshot is None

    def current(self) -> Snapshot:
        """Return the snapshot. Raise ConfigurationUnavailable if there is none yet."""
        if self._snapshot is None:
            raise ConfigurationUnavailable
        return self._snapshot

    def is_confirmed(self) -> bool:
        """Return whether the database or Redis confirmed the snapshot within CONFIRMED_FOR_S."""
        return clock.monotonic_s() - self.confirmed_at <= CONFIRMED_FOR_S

    def refresh(self) -> None:
        """Apply newer documents of the database or, while it is unavailable, of Redis. Blocks."""
        if connection.in_atomic_block and not self.is_empty:
            return  # the transaction's own changes may be rolled back
        try:
            self.read_database()
        except DatabaseUnreachable as error:
            connection.close()
            self._database_failures.record("configuration_not_read_from_database", key="", error=str(error))
            self.read_redis()
        else:
            self._database_failures.record_success()
        self.refreshed_at = clock.monotonic_s()

    def read_database(self) -> None:
        """Apply what was committed since the last call, in one query. Raise django.db.Error."""
        began_at = clock.monotonic_s()
        # Changes are committed in the order of their revisions, so that no lower one can follow.
        rows = [row.as_document() for row in StoredDocument.objects.filter(revision__gt=self._stored_revision)]
        self.merge(rows)
        self._stored_revision = max([self._stored_revision, *(row.revision for row in rows)])
        # As of the beginning: a commit during the query may be missing from its rows.
        self.confirmed_at = max(self.confirmed_at, began_at)

    def read_redis(self) -> None:
        """Apply newer documents that the server signed; log that others were refused."""
        began_at = clock.monotonic_s()
        try:
            problem = self._read_redis()
        except BrokerUnavailable as error:
            self._redis_failures.record("configuration_not_read_from_redis", key=error.code, error=str(error))
            return
        if problem:
            self._redis_failures.record("published_configuration_refused", key=problem, reason=problem)
            return
        self._redis_failures.record_success()
        self.confirmed_at = max(self.confirmed_at, began_at)

    def apply(self, documents: Iterable[Document]) -> None:
        """Apply what this process has just committed. Do nothing before the first snapshot, which will include it."""
        if self._snapshot is not None:
            self.merge(documents)

    def merge(self, documents: Iterable[Document]) -> None:
        """Replace the snapshot by one with the newer documents, after computing its values."""
        with self._lock:
            known = self._snapshot.documents if self._snapshot else {}
            newer = {d.field: d for d in documents if d.field not in known or d.revision > known[d.field].revision}
            if newer or self._snapshot is None:
                replacement = Snapshot({**known, **newer}, before=self._snapshot)
                # Before others see it: an event loop must not compute.
                replacement.compute_values()
                self._snapshot = replacement

    def forget_values(self) -> None:
        if self._snapshot is not None:
            self._snapshot = Snapshot(self._snapshot.documents)

    def _read_redis(self) -> str:
        """Apply newer documents; return why Redis does not confirm the snapshot, or an empty string."""
        broker, key = get_broker(), signing_key(settings.SECRET_KEY)
        content = broker.run(configuration_documents.read_revisions())
        try:
            published = verify_revisions(content, key)
        except InvalidSignature as error:
            return str(error)
        if not content:
            return "nothing is published"
        known = self._snapshot.revisions if self._snapshot else {}
        newer = [each for each, revision in published.items() if revision > known.get(each, -1)]
        documents: list[Document] = []
        for start in range(0, len(newer), _DOCUMENTS_AT_ONCE):
            found = broker.run(configuration_documents.read_documents(newer[start : start + _DOCUMENTS_AT_ONCE]))
            documents += _verified(found, key)
        self.merge(documents)
        return "" if self.current().revisions == published else "older than what is known, or incomplete"


def _verified(found: Mapping[str, bytes], key: bytes) -> Iterable[Document]:
    for each, content in found.items():
        try:
            yield verify(each, content, key)
        except InvalidSignature as error:
            log.error("published_document_refused", reason=str(error))  # noqa: TRY400 (the traceback adds nothing)


class Poller:
    """Reads the database once a second and, while that hangs, Redis on another thread.

    While the database fails instead of hanging, `refresh` itself reads Redis.
    """

    def __init__(self, *, refresh: Callable[[], None], read_redis: Callable[[], None]) -> None:
        self.pid = os.getpid()
        self._refresh, self._read_redis = refresh, read_redis
        self._changed = threading.Condition()
        self._is_requested = False
        # The time at which the latest read that has ended began.
        self._read_at_s = float("-inf")
        self._refreshed_at_s = clock.monotonic_s()

    def start(self) -> None:
        for function in (self._poll, self._watch):
            threading.Thread(target=function, name=f"runqy-configuration{function.__name__}", daemon=True).start()

    def wait_for_read(self, wait_s: float) -> None:
        """Request a read at once, and wait at most `wait_s` for one that began after this call."""
        requested_at_s = clock.monotonic_s()
        with self._changed:
            self._is_requested = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._read_at_s >= requested_at_s, wait_s)

    def _poll(self) -> None:
        while True:
            self._read(self._refresh)
            self._refreshed_at_s = clock.monotonic_s()
            with self._changed:
                self._changed.wait_for(lambda: self._is_requested, POLL_EVERY_S)
                self._is_requested = False

    def _watch(self) -> None:
        while True:
            time.sleep(CHECK_EVERY_S)
            if clock.monotonic_s() - self._refreshed_at_s > HANGS_AFTER_S:
                self._read(self._read_redis)

    def _read(self, read: Callable[[], None]) -> None:
        began_at_s = clock.monotonic_s()
        try:
            read()
        except Exception:  # these loops must not end
            log.exception("background_task_failed", task=threading.current_thread().name)
        with self._changed:
            # The other thread's read may have begun later and ended first.
            self._read_at_s = max(self._read_at_s, began_at_s)
            self._changed.notify_all()


_cache = SnapshotCache()
_poller: Poller | None = None
_lock = threading.Lock()
"""Held to start the poller, and to refresh in a process without one."""


def start_polling() -> None:
    """Start to poll for newer configuration, unless this process already does."""
    global _poller  # noqa: PLW0603 (a process has one)
    # Threads do not survive a fork, so a child starts its own.
    if _poller is not None and _poller.pid == os.getpid():
        return
    with _lock:
        if _poller is None or _poller.pid != os.getpid():
            _poller = Poller(refresh=_cache.refresh, read_redis=_cache.read_redis)
            _poller.start()


def get_cache() -> SnapshotCache:
    return _cache


def current_snapshot() -> Snapshot:
    """Return the process's snapshot without I/O. Raise ConfigurationUnavailable."""
    return _cache.current()


def get_snapshot(max_age_s: float = MAX_AGE_S) -> Snapshot:
    """Return the process's snapshot, at most `max_age_s` old; 0 refreshes it. Raise ConfigurationUnavailable."""
    if _poller is None:
        with _lock:
            if _cache.is_empty or max_age_s <= 0 or clock.monotonic_s() - _cache.refreshed_at >= max_age_s:
                _cache.refresh()
    elif _cache.is_empty or max_age_s < MAX_AGE_S:
        _poller.wait_for_read(FIRST_WAIT_S if _cache.is_empty else NEWEST_WAIT_S)
    return _cache.current()


def get_newest() -> Snapshot:
    """Return the snapshot, refreshed to look for an unknown object. Raise ConfigurationUnavailable."""
    if _poller is None:
        return get_snapshot(0)
    _poller.wait_for_read(UNKNOWN_WAIT_S)
    return _cache.current()


def apply(documents: Iterable[Document]) -> None:
    _cache.apply(documents)


def is_confirmed() -> bool:
    """Return whether the database or Redis confirmed the snapshot within CONFIRMED_FOR_S.

    Raise ConfigurationUnavailable.
    """
    get_snapshot()
    return _cache.is_confirmed()


def forget() -> None:
    """Discard the snapshot. For tests, which change Redis and the database directly."""
    global _cache  # noqa: PLW0603
    _cache = SnapshotCache()
