"""The plane that a test runs on, and the comparison of the data plane with DRF's viewsets."""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from django.conf import settings
from django.http import HttpResponse

from tests.support.data_plane import DataPlane, comparable
from tests.support.redis_copy import copy_redis, use_copy

data_plane: DataPlane | None = None
"""Serves its own routes in a test, if set; the fixture `each_plane` does."""


@dataclass(frozen=True, kw_only=True)
class SentRequest:
    """A request for either plane."""

    method: str
    path: str
    """With the query."""
    headers: dict[str, str]
    body: bytes = b""
    address: str = "127.0.0.1"
    scheme: str = "http"


def send(request: SentRequest, send_to_django: Callable[[], HttpResponse]) -> HttpResponse:
    """Return the response of the test's plane; Django's own if the data plane does not serve the request.

    What the data plane responds is compared with the response of the viewsets to the same request, which they get on
    Redis as it is now, or if the request changed something, on a copy of Redis as it was before.
    """
    if data_plane is None or not data_plane.serves(request.method, request.path):
        return send_to_django()
    has_copy = threading.current_thread() is threading.main_thread() and copy_redis()
    response = data_plane.send(
        request.method, request.path, request.headers, request.body, address=request.address, scheme=request.scheme
    )
    if _is_repeatable(request, response):
        assert_alike(response, send_to_django())
    elif has_copy and not _waits(request) and not _is_stream(response):
        with use_copy():
            assert_alike(response, send_to_django(), is_later=True)
    return response


def assert_alike(seen: HttpResponse, expected: HttpResponse, *, is_later: bool = False) -> None:
    """Fail unless both planes responded alike; `is_later`: about tasks and times of their own."""
    found, wanted = comparable(seen, is_later=is_later), comparable(expected, is_later=is_later)
    assert found == wanted, f"the data plane: {found}\nDjango: {wanted}"


def _is_repeatable(request: SentRequest, response: HttpResponse) -> bool:
    """Return whether the same request has the same response again: nothing is changed or counted by it."""
    is_counted = settings.RUNQY_RATE_LIMIT is not None or response.has_header("RateLimit")
    # 500: what the test breaks may fail only once.
    is_kept = request.method == "GET" and response.status_code not in (202, 500) and not _is_stream(response)
    return not is_counted and (is_kept or 400 <= response.status_code < 500)


def _is_stream(response: HttpResponse) -> bool:
    return bool(response.headers.get("Content-Type") == "text/event-stream")


def _waits(request: SentRequest) -> bool:
    """Return whether a request may wait for what the test does meanwhile."""
    return "wait=" in request.path or "Prefer" in request.headers
