"""Calls of hot routes: what their coroutines take and return in both planes, and how Django's threads run them.

A client waits for the end of a task by `?wait=` or `Prefer: wait=` (RFC 7240).
"""

import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from typing import Any, TypeAlias, TypeVar
from urllib.parse import quote

import msgspec
from django.http import HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils.http import quote_etag
from drf_spectacular.utils import OpenApiParameter
from rest_framework.response import Response

from queues.queries import with_fresh_catalog
from runqy.accounts.authentication import presented_key
from runqy.accounts.identities import find_identity
from runqy.api.etags import content_version, matches_if_none_match
from runqy.api.requests import AuthenticatedRequest
from runqy.broker.tasks.record import TaskRecord
from runqy.core.api_keys import Identity
from runqy.core.formats import durations
from runqy.errors import RequestInvalid
from runqy.redis_connection import get_broker
from tasks.api.streaming import StreamBody
from tasks.operations import EnqueuedTask
from tasks.waiting import WaitingClient
from tasks.waiting_loop import LONGEST_WAIT_S, BlockingIterator, get_waiting_loop

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
UNTIL_DISCONNECT = "runqy.until_disconnect"
"""A server-defined variable of the WSGI environment (PEP 3333): `WaitingClient.until_disconnect` of the request.

The data plane sets it, since clients wait on its event loop. Other servers do not report when a client disconnects.
"""


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


T = TypeVar("T")


async def _wait(waiting: Coroutine[Any, Any, Any]) -> Any:
    return await waiting


class Call(msgspec.Struct, kw_only=True):
    """A request of an authenticated client, as the coroutine of a hot route gets it from either plane."""

    identity: Identity
    headers: Mapping[str, str]
    """Their names are case-insensitive."""
    query: Mapping[str, str]
    """The last value of each parameter."""
    body: bytes = b""
    release: Callable[[], None] = lambda: None
    """Release the memory that the server has reserved for the body."""
    is_head: bool = False
    """The response has no body: nothing waits for one."""
    holds_thread: bool = False
    until_disconnect: Callable[[Coroutine[Any, Any, bool]], Awaitable[bool]] = _wait
    """`WaitingClient.until_disconnect` of a client that holds a thread."""
    wait: Callable[[Coroutine[Any, Any, Any]], Awaitable[Any]] = _wait
    """Run a coroutine of ResultWaiters on their event loop. Raise ClientDisconnected, and its errors."""

    def release_body(self) -> None:
        """Drop the body, which is not needed any more, and release its memory."""
        self.body = b""
        self.release()

    def waiting_client(self, *, wants_payload: bool = True) -> WaitingClient:
        """Return the client that waits, identified by the key in the headers of its request."""
        client = waiting_client(self.headers, self.identity, wants_payload=wants_payload)
        if not self.holds_thread:
            return client
        return msgspec.structs.replace(client, holds_thread=True, until_disconnect=self.until_disconnect)


def waiting_client(headers: Mapping[str, str], identity: Identity, *, wants_payload: bool = True) -> WaitingClient:
    """Return the client that waits, identified by the key in the headers of its request."""
    return WaitingClient(
        id=identity.key_id or identity.role,
        allowed_queues=identity.queues,
        wants_payload=wants_payload,
        is_accepted=partial(_is_unchanged, presented_key(headers), identity),
    )


def _is_unchanged(key: str, identity: Identity) -> bool:
    """Return whether a key has been neither revoked nor changed, and has not expired, since its request began."""
    return not key or find_identity(key) == identity  # no key: RUNQY_PUBLIC_RESULTS


class Result(msgspec.Struct, frozen=True):
    """The response to a call."""

    value: Any = None
    """Rendered as JSON; a StreamBody is sent as it is, and None is no body."""
    status: int = 200
    headers: Mapping[str, str] = {}


HotAction: TypeAlias = Callable[..., Coroutine[Any, Any, Result]]
"""The coroutine function of a hot route. It takes a broker, ResultWaiters, a Call, and the path's parameters by name.

It raises a RunqyError for each response that is a problem. Before it writes anything it looks up the queue: after
QueueNotFound it is called again with a newer catalog.
"""


def call_of(request: AuthenticatedRequest) -> Call:
    """Return the call of a viewset's request, which holds a thread."""
    body: Any = request.data if request.method == "POST" else b""
    return Call(
        identity=request.auth,
        headers=request.headers,
        body=body or b"",  # DRF calls no parser for an empty body
        query=request.query_params.dict(),
        is_head=request.method == "HEAD",
        holds_thread=True,
        until_disconnect=request.META.get(UNTIL_DISCONNECT, _wait),
        wait=get_waiting_loop().wait,
    )


def run_action(action: HotAction, request: AuthenticatedRequest, **parameters: Any) -> HttpResponseBase:
    """Return the response of a hot route's coroutine, which runs on the event loop of threads. Raise its errors."""
    call, waiting, broker = call_of(request), get_waiting_loop(), get_broker()

    def run() -> Result:
        return broker.run(action(broker, waiting.waiters, call, **parameters), deadline_s=LONGEST_WAIT_S)

    result = with_fresh_catalog(run)
    if isinstance(result.value, StreamBody):
        chunks = BlockingIterator(waiting, result.value)
        return StreamingHttpResponse(chunks, status=result.status, headers=result.headers)
    if result.value is None and "Content-Type" in result.headers:
        return HttpResponse(status=result.status, headers=result.headers)
    return Response(result.value, result.status, headers=result.headers)
