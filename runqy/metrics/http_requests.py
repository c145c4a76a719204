"""Durations of HTTP requests by route, method and status, and requests in flight, counted in both planes.

Under gunicorn the values are in files that all web processes share (ADR 0032): `runqy.gunicorn_conf` sets
PROMETHEUS_MULTIPROC_DIR before anything imports prometheus_client. Writing to these files takes 2.5 µs for each
request, a fiftieth of an enqueue, so durations are counted in memory (0.7 µs) and added once a second.
"""

import re
import threading
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import lru_cache
from time import perf_counter

from prometheus_client import Counter, Gauge
from prometheus_client.metrics_core import Metric

from runqy.metrics.declarations import HTTP_DURATION, HTTP_IN_FLIGHT

OTHER = "other"
"""The label of requests without a route, and of unknown methods: clients can send any number of them."""

_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_BOUNDS = (*map(str, _BUCKETS_S), "+Inf")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
_WAITING_ROUTES = frozenset({"/queue/add", "/queue/{task_id}"})
_PARAMETER = re.compile(r"<(?:[^:>]+:)?([^>]+)>")
_FLUSH_EVERY_S = 1.0
_LABELS = HTTP_DURATION.labels

_buckets = Counter("runqy_http_request_buckets", "Requests by bucket of their duration.", (*_LABELS, "le"))
_sums = Counter("runqy_http_request_sums", "Seconds that requests took.", _LABELS)
requests_in_flight = Gauge(HTTP_IN_FLIGHT.name, HTTP_IN_FLIGHT.help, HTTP_IN_FLIGHT.labels, multiprocess_mode="livesum")


class _RequestDurations:
    """Counts durations in memory, from the event loop and Django's threads, and adds them to the shared values."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Counts by bucket, then the sum.
        self._counted: dict[tuple[str, str, int], list[float]] = {}
        self._flushed_s = perf_counter()

    def observe(self, key: tuple[str, str, int], seconds: float) -> None:
        with self._lock:
            counts = self._counted.get(key)
            if counts is None:
                counts = self._counted[key] = [0.0] * (len(_BOUNDS) + 1)
            counts[bisect_left(_BUCKETS_S, seconds)] += 1
            counts[-1] += seconds

    def flush(self, now_s: float) -> None:
        with self._lock:
            counted, self._counted, self._flushed_s = self._counted, {}, now_s
        for (route, method, status), (*counts, total) in counted.items():
            labels = (route, method if method in _METHODS else OTHER, str(status))
            _sums.labels(*labels).inc(total)
            for bound, count in zip(_BOUNDS, counts, strict=True):
                if count:
                    _buckets.labels(*labels, bound).inc(count)

    def is_due(self, now_s: float) -> bool:
        return now_s - self._flushed_s >= _FLUSH_EVERY_S


_durations = _RequestDurations()


def observe_request(  # noqa: PLR0913 (what a request is counted by)
    route: str, method: str, status: int, *, began_s: float, query: str | bytes = "", prefer: str = ""
) -> None:
    """Count a request that began at `began_s`, by `perf_counter`. `route` is a template, never the path of a
    request. `query` and the header `Prefer` tell whether the client waits for a task.
    """
    now_s = perf_counter()
    label = _label(route, query, prefer) if query or prefer else route
    _durations.observe((label, method, status), now_s - began_s)
    if _durations.is_due(now_s):
        _durations.flush(now_s)


def flush_requests() -> None:
    """Add what was counted to the values that all processes share. Otherwise a later request does."""
    _durations.flush(perf_counter())


def with_histogram(families: Iterable[Metric]) -> Iterator[Metric]:
    """Yield families, with those of request durations joined to one histogram."""
    buckets: dict[tuple[str, ...], dict[str, float]] = defaultdict(dict)
    sums: dict[tuple[str, ...], float] = {}
    for family in families:
        if family.name not in ("runqy_http_request_buckets", "runqy_http_request_sums"):
            yield family
            continue
        for sample in family.samples:
            if sample.name.endswith("_total"):
                key = tuple(sample.labels[name] for name in _LABELS)
                if bound := sample.labels.get("le"):
                    buckets[key][bound] = sample.value
                else:
                    sums[key] = sample.value
    histogram = HTTP_DURATION.family()
    for key, counts in buckets.items():
        total = 0.0
        cumulated = [(bound, total := total + counts.get(bound, 0.0)) for bound in _BOUNDS]
        histogram.add_metric(key, cumulated, sums.get(key, 0.0))
    yield histogram


def _label(route: str, query: str | bytes, prefer: str) -> str:
    """Append `?wait` to a route if the client waits for a task, because such requests take any time."""
    if route not in _WAITING_ROUTES:
        return route
    waits = "wait=" in query if isinstance(query, str) else b"wait=" in query
    return f"{route}?wait" if waits or "wait" in prefer else route


@lru_cache(maxsize=1000)
def route_template(django_route: str) -> str:
    """Return a route of Django's URL configuration as the API's schema writes it."""
    return "/" + _PARAMETER.sub(r"{\1}", django_route)
