"""Durations of HTTP requests by route, method and status, and requests in flight, counted in both planes.

Under gunicorn the values are in files that all web processes share (ADR 0032): `runqy.gunicorn_conf` sets
PROMETHEUS_MULTIPROC_DIR before anything imports prometheus_client.
"""

import re
from functools import lru_cache
from time import perf_counter

from prometheus_client import Gauge, Histogram, disable_created_metrics

from runqy.server.metrics.declarations import HTTP_DURATION, HTTP_IN_FLIGHT

OTHER = "other"
"""The label of requests without a route, and of unknown methods: clients can send any number of them."""

_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
_WAITING_ROUTES = frozenset({"/queue/add", "/queue/{task_id}"})
_PARAMETER = re.compile(r"<(?:[^:>]+:)?([^>]+)>")

disable_created_metrics()  # type: ignore[no-untyped-call]  # several processes have none, so one has none either
_durations = Histogram(HTTP_DURATION.name, HTTP_DURATION.help, HTTP_DURATION.labels, buckets=_BUCKETS_S)
requests_in_flight = Gauge(HTTP_IN_FLIGHT.name, HTTP_IN_FLIGHT.help, HTTP_IN_FLIGHT.labels, multiprocess_mode="livesum")


def observe_request(  # noqa: PLR0913 (what a request is counted by)
    route: str, method: str, status: int, *, began_s: float, query: str | bytes = "", prefer: str = ""
) -> None:
    """Count a request that began at `began_s`, by `perf_counter`. `route` is a template, never the path of a
    request. `query` and the header `Prefer` tell whether the client waits for a task.
    """
    label = _label(route, query, prefer) if query or prefer else route
    _durations_of(label, method if method in _METHODS else OTHER, status).observe(perf_counter() - began_s)


@lru_cache(maxsize=10_000)  # `labels` takes longer than the rest
def _durations_of(route: str, method: str, status: int) -> Histogram:
    return _durations.labels(route, method, status)


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
