"""The page /metrics: built at most once a second, however many programs read it."""

import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version

from django.db import DatabaseError
from django.utils import timezone
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from queues.catalog import QueueCatalog
from runqy import clock
from runqy.broker.workers.records import count_workers
from runqy.configuration.publishing import PublicationProblem, find_publication_problem
from runqy.errors import BrokerUnavailable, ConfigurationUnavailable
from runqy.server.metrics import multiprocess
from runqy.server.metrics.declarations import (
    BUILD_INFO,
    MAINTENANCE_UP,
    PUBLICATION,
    REDIS_ROUND_TRIP,
    REDIS_UP,
    SCHEDULE_LAG,
    STREAM_ENTRIES,
    STREAM_LAG,
    WEBHOOK_ATTEMPTS,
    WEBHOOK_DELIVERIES,
    WEBHOOK_DROPPED,
    WEBHOOK_OLDEST_DUE,
    WORKER_PROCESSES,
)
from runqy.server.metrics.families import (
    asynq_families,
    demand_families,
    label_queues,
    release_family,
    run_families,
    worker_families,
)
from runqy.server.metrics.process import sample_snapshot
from runqy.server.metrics.state import RedisState, find_catalog, find_redis_state
from schedules.queries import find_lag_s
from webhooks.queries import count_undelivered

MAX_AGE_S = 1.0
_PUBLISHED = "published"


class RedisCollector(Collector):
    """What is read from Redis for one page."""

    def collect(self) -> Iterator[Metric]:
        """Yield all families. Without Redis, only those of this server."""
        catalog = find_catalog()
        state = find_redis_state(catalog)
        yield REDIS_UP.single(float(state is not None))
        yield BUILD_INFO.family({version("runqy"): 1.0})
        if state is None:
            return
        yield from _server_families(state)
        if catalog is not None:
            yield from _queue_families(state, catalog)


def _server_families(state: RedisState) -> Iterator[Metric]:
    yield REDIS_ROUND_TRIP.single(state.round_trip_s)
    yield MAINTENANCE_UP.single(float(state.is_maintenance_running))
    processes = count_workers(state.workers, now_s=state.now_s)
    yield WORKER_PROCESSES.family(asdict(processes))
    if (publication := _find_publication_state()) is not None:
        yield PUBLICATION.family({name: float(name == publication) for name in (_PUBLISHED, *PublicationProblem)})
    yield from _database_families(datetime.fromtimestamp(state.now_s, UTC))
    yield WEBHOOK_ATTEMPTS.family(state.webhook_attempts)
    yield STREAM_ENTRIES.family({backlog.stream: backlog.entries for backlog in state.backlogs})
    yield STREAM_LAG.family({backlog.stream: backlog.age_s for backlog in state.backlogs})


def _queue_families(state: RedisState, catalog: QueueCatalog) -> Iterator[Metric]:
    labels = label_queues(catalog.redis_queues())
    yield from asynq_families(state, labels)
    yield from run_families(state, labels)
    yield from worker_families(state, catalog, labels)
    yield from demand_families(state.demands)
    yield release_family(catalog)


def _find_publication_state() -> str | None:
    """Return the state of the published configuration; None if Redis or the database cannot be read."""
    try:
        return find_publication_problem() or _PUBLISHED
    except (BrokerUnavailable, ConfigurationUnavailable):
        return None


def _database_families(now: datetime) -> Sequence[Metric]:
    """Return how late schedules and webhooks are; nothing if the database cannot be read."""
    try:
        # Fires are due by Redis's clock, messages by that of the servers.
        lag_s, undelivered = find_lag_s(now), count_undelivered(timezone.now())
    except DatabaseError:
        return ()
    return (
        SCHEDULE_LAG.single(lag_s),
        WEBHOOK_DELIVERIES.family({"due": undelivered.due, "waiting": undelivered.waiting}),
        WEBHOOK_OLDEST_DUE.single(undelivered.oldest_due_s),
        WEBHOOK_DROPPED.single(float(undelivered.dropped)),
    )


class MetricsPage:
    """The last page that was built."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._built_s = float("-inf")
        self._text = b""

    def read(self) -> bytes:
        """Return the page, at most MAX_AGE_S old. One thread builds it while the others wait."""
        with self._lock:
            if clock.monotonic_s() - self._built_s >= MAX_AGE_S:
                self._text = _build()
                self._built_s = clock.monotonic_s()
            return self._text


def _build() -> bytes:
    find_catalog()  # before the snapshot's age is taken: a process that does not poll refreshes its snapshot here
    sample_snapshot()
    # With auto_describe, registering a collector would read Redis once more, to learn its names.
    registry = CollectorRegistry(auto_describe=False)
    registry.register(ProcessCollector())
    registry.register(RedisCollector())
    return generate_latest(registry)


class ProcessCollector(Collector):
    """The numbers of the web processes: under gunicorn of all of them, otherwise of this one."""

    def collect(self) -> Iterator[Metric]:
        registry = REGISTRY
        if multiprocess.VARIABLE in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        yield from registry.collect()


page = MetricsPage()
