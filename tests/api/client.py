"""A client of the API, on either plane."""

import json
import threading
from typing import Any, ClassVar

from django.conf import settings
from django.test import Client

from tests.support.data_plane import Comparable, DataPlane, comparable
from tests.support.environment import ADMIN_KEY
from tests.support.redis_copy import copy_redis, use_copy

Response = Any
"""What Django's test client returns: an HttpResponse with its request."""


class ApiClient:
    """Sends requests with one key and reads JSON.

    What the data plane responds is compared with the response of DRF's viewsets to the same request, which they get
    on Redis as it is now, or if it changed something, on a copy of Redis as it was before.
    """

    plane: ClassVar[DataPlane | None] = None
    """Serves its own routes for all clients of a test, if set; the fixture `each_plane` does."""

    def __init__(self, key: str | None = ADMIN_KEY) -> None:
        self._client = Client(raise_request_exception=False)
        self._headers = {"Authorization": f"Bearer {key}"} if key is not None else {}

    def get(self, path: str, **headers: str) -> Response:
        """Send a GET."""
        return self._send("GET", path, b"", headers)

    def post(self, path: str, body: Any = b"", content_type: str = "application/json", **headers: str) -> Response:
        """Send a POST; a body that is not bytes is encoded as JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self._send("POST", path, data, headers, content_type)

    def put(self, path: str, body: Any = None, **headers: str) -> Response:
        """Send a PUT with a body of JSON."""
        return self._send("PUT", path, json.dumps(body).encode(), headers)

    def delete(self, path: str, **headers: str) -> Response:
        """Send a DELETE."""
        return self._send("DELETE", path, b"", headers)

    def _send(
        self, method: str, path: str, body: bytes, headers: dict[str, str], content_type: str = "application/json"
    ) -> Response:
        headers = self._headers | headers
        if self.plane is None or not self.plane.serves(method, path):
            return self._send_to_django(method, path, body, headers, content_type)
        has_copy = threading.current_thread() is threading.main_thread() and copy_redis()
        response = self.plane.send(method, path, {"Content-Type": content_type} | headers, body)
        if _is_repeatable(method, response):
            repeated = self._send_to_django(method, path, body, headers, content_type)
            assert_alike(comparable(response), comparable(repeated))
        elif has_copy and not _waits(path, headers) and not _is_stream(response):
            with use_copy():
                repeated = self._send_to_django(method, path, body, headers, content_type)
            assert_alike(comparable(response, is_later=True), comparable(repeated, is_later=True))
        return response

    def _send_to_django(
        self, method: str, path: str, body: bytes, headers: dict[str, str], content_type: str
    ) -> Response:
        return self._client.generic(method, path, body, content_type=content_type, headers=headers)


def assert_alike(seen: Comparable, expected: Comparable) -> None:
    """Fail unless both planes responded alike."""
    assert seen == expected, f"the data plane: {seen}\nDjango: {expected}"


def _is_repeatable(method: str, response: Response) -> bool:
    """Return whether the same request has the same response again: nothing is changed or counted by it."""
    is_counted = settings.RUNQY_RATE_LIMIT is not None or response.has_header("RateLimit")
    is_kept = method == "GET" and response.status_code != 202 and not _is_stream(response)
    return not is_counted and (is_kept or 400 <= response.status_code < 500)


def _is_stream(response: Response) -> bool:
    return bool(response.headers.get("Content-Type") == "text/event-stream")


def _waits(path: str, headers: dict[str, str]) -> bool:
    """Return whether a request may wait for what the test does meanwhile."""
    return "wait=" in path or "Prefer" in headers


def problem(response: Response) -> dict[str, Any]:
    """Check that a response is a problem, and return its body."""
    assert response["Content-Type"] == "application/problem+json", response.content
    found: dict[str, Any] = json.loads(response.content)
    assert found["status"] == response.status_code
    members = {"type", "title", "status", "detail", "code", "errors", "request_id"}
    assert found.keys() - {"present_version", "checks"} == members
    assert found["errors"]
    assert all(isinstance(error, str) for error in found["errors"])
    return found
