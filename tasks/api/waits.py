"""How long a client waits for the end of a task, `?wait=` or `Prefer: wait=` (RFC 7240), and what it is sent then."""

import re
from collections.abc import Mapping
from urllib.parse import quote

import msgspec
from django.utils.http import quote_etag
from drf_spectacular.utils import OpenApiParameter

from runqy import durations
from runqy.accounts.identity import Identity
from runqy.api.preconditions import content_version, matches_if_none_match
from runqy.broker.records import TaskRecord
from runqy.errors import RequestInvalid
from tasks.operations import EnqueuedTask
from tasks.waiting import WaitingClient

MAX_WAIT_S = 300

WAIT_PARAMETERS = [
    OpenApiParameter(
        "wait",
        str,
        description=f"Wait for the end of the task: seconds or a duration such as `1m`, at most {MAX_WAIT_S} s",
    ),
    OpenApiParameter("Prefer", str, OpenApiParameter.HEADER, description="`wait=<seconds>`, RFC 7240"),
]

_PREFERRED = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?([0-9]+)", re.IGNORECASE)

ResponseHead = tuple[int, dict[str, str]]
"""The status and the headers of a response."""


class Wait(msgspec.Struct, frozen=True):
    """How long a client waits."""

    seconds: float
    """0: not at all."""
    is_preference: bool = False
    """Requested by `Prefer`, so that the response names what was applied."""

    def headers(self) -> dict[str, str]:
        """Return the headers that confirm a preference."""
        return {"Preference-Applied": f"wait={self.seconds:.0f}"} if self.is_preference else {}


def parse_wait(query: str | None, headers: Mapping[str, str]) -> Wait:
    """Return how long a client waits; longer than MAX_WAIT_S is MAX_WAIT_S. `query` is the parameter `wait`.

    Raises RequestInvalid for what is not a duration.
    """
    if query is None:
        preferred = _PREFERRED.search(headers.get("Prefer", ""))
        return Wait(min(float(preferred[1]), MAX_WAIT_S), is_preference=True) if preferred else Wait(0)
    try:
        seconds = float(query) if re.fullmatch(r"[0-9]*\.[0-9]+", query) else durations.parse_ns(query) / 1e9
    except ValueError as error:
        raise RequestInvalid(errors=[f"wait: {error}"]) from error
    return Wait(min(seconds, MAX_WAIT_S))


def waiting_client(identity: Identity, *, holds_thread: bool = False) -> WaitingClient:
    """Return the client that waits with this key."""
    return WaitingClient(id=identity.key_id or identity.role, allowed_queues=identity.queues, holds_thread=holds_thread)


def enqueue_head(enqueued: EnqueuedTask, awaited: TaskRecord | None, wait: Wait) -> ResponseHead:
    """Return the head of the response to a task that was queued, and awaited unless that was not possible."""
    headers = {"Idempotent-Replayed": "true"} if enqueued.is_replayed else {}
    if not wait.seconds:
        return 200, headers
    status, waited = _waited_head(awaited or enqueued.record, wait if awaited else Wait(0))
    return status, headers | waited


def task_head(record: TaskRecord, body: bytes, wait: Wait, headers: Mapping[str, str]) -> ResponseHead:
    """Return the head of the response with a task to a request with these headers; without a body where it is 304."""
    if wait.seconds and not record.state.is_final:
        return _waited_head(record, wait)
    version = content_version(body)
    etag = {"ETag": quote_etag(version)}
    if matches_if_none_match(headers, version):
        return 304, etag
    return 200, etag | (wait.headers() if wait.seconds else {})


def _waited_head(record: TaskRecord, wait: Wait) -> ResponseHead:
    """Return 202 and where to look for a task whose wait was too short, and the confirmation of a preference."""
    if record.state.is_final:
        return 200, wait.headers()
    return 202, {"Location": f"/queue/{quote(record.id, safe='')}"} | wait.headers()
