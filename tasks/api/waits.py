"""Wait for the end of a task by `?wait=` or `Prefer: wait=` (RFC 7240), and the status and headers of the response."""

import re
from collections.abc import Mapping
from urllib.parse import quote

import msgspec
from django.utils.http import quote_etag
from drf_spectacular.utils import OpenApiParameter

from runqy.api.etags import content_version, matches_if_none_match
from runqy.broker.tasks.record import TaskRecord
from runqy.core.formats import durations
from runqy.errors import RequestInvalid
from tasks.operations import EnqueuedTask

MAX_WAIT_S = 300

WAITED = "runqy.waited"
"""A variable of the WSGI environment: the client has waited on the event loop of the data plane."""

WAIT_PARAMETERS = [
    OpenApiParameter(
        "wait",
        str,
        description="Wait for the end: seconds, a duration such as `1m`, or `true` for the maximum. "
        f"Longer waits are reduced to {MAX_WAIT_S} s, and the response has `Preference-Applied: wait={MAX_WAIT_S}`",
    ),
    OpenApiParameter("Prefer", str, OpenApiParameter.HEADER, description="`wait=<seconds>`, RFC 7240"),
]

_FLAGS = {"true": float("inf"), "false": 0.0}
_PREFERRED = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?([0-9]+)", re.IGNORECASE)

ResponseHead = tuple[int, dict[str, str]]
"""The status and the headers of a response."""


class Wait(msgspec.Struct, frozen=True):
    """How long a client waits."""

    seconds: float
    """0: no wait."""
    is_confirmed: bool = False
    """The response states the time: it was requested by `Prefer`, or is shorter than requested."""

    def headers(self) -> dict[str, str]:
        """Return the headers that confirm the time."""
        return {"Preference-Applied": f"wait={self.seconds:.0f}"} if self.is_confirmed else {}


def parse_wait(query: str | None, headers: Mapping[str, str]) -> Wait:
    """Return how long a client waits: at most MAX_WAIT_S, which `?wait=true` requests.

    `query` is the value of the parameter; it takes precedence over `Prefer`. Raise RequestInvalid for an invalid
    duration.
    """
    if query is None:
        preferred = _PREFERRED.search(headers.get("Prefer", ""))
        return Wait(min(float(preferred[1]), MAX_WAIT_S), is_confirmed=True) if preferred else Wait(0)
    seconds = _FLAGS.get(query.lower())
    try:
        if seconds is None:
            seconds = durations.parse_ns(query) / 1e9
    except ValueError as error:
        raise RequestInvalid(errors=[f"wait: {error}."]) from error
    return Wait(min(seconds, MAX_WAIT_S), is_confirmed=seconds > MAX_WAIT_S)


def enqueue_head(enqueued: EnqueuedTask, awaited: TaskRecord | None, wait: Wait) -> ResponseHead:
    """Return status and headers of the response about an enqueued task. `awaited` is its state after a wait."""
    headers = {"Idempotent-Replayed": "true"} if enqueued.is_replayed else {}
    if not wait.seconds:
        return 200, headers
    status, waited = _waited_head(awaited or enqueued.record, wait if awaited else Wait(0))
    return status, headers | waited


def task_head(record: TaskRecord, body: bytes, wait: Wait, headers: Mapping[str, str]) -> ResponseHead:
    """Return status and headers of the response about a task, to a request with these headers."""
    if wait.seconds and not record.state.is_final:
        return _waited_head(record, wait)
    version = content_version(body)
    etag = {"ETag": quote_etag(version)}
    if matches_if_none_match(headers, version):
        return 304, etag
    return 200, etag | (wait.headers() if wait.seconds else {})


def _waited_head(record: TaskRecord, wait: Wait) -> ResponseHead:
    if record.state.is_final:
        return 200, wait.headers()
    return 202, {"Location": f"/queue/{quote(record.id, safe='')}"} | wait.headers()
