"""Speaks to the API as clients do."""

import json
from typing import Any

from django.test import Client

from tests.support.environment import ADMIN_KEY

Answer = Any
"""What Django's test client returns: an HttpResponse with the request that it answers."""


class ApiClient:
    """Sends requests with one key and reads JSON."""

    def __init__(self, key: str | None = ADMIN_KEY) -> None:
        self._client = Client(raise_request_exception=False)
        self._headers = {"Authorization": f"Bearer {key}"} if key is not None else {}

    def get(self, path: str, **headers: str) -> Answer:
        """Send a GET."""
        return self._client.get(path, headers=self._headers | headers)

    def post(self, path: str, body: Any = b"", content_type: str = "application/json", **headers: str) -> Answer:
        """Send a POST; a body that is not bytes goes as JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self._client.post(path, data, content_type=content_type, headers=self._headers | headers)

    def put(self, path: str, body: Any = None, **headers: str) -> Answer:
        """Send a PUT with a body of JSON."""
        data = json.dumps(body).encode()
        return self._client.put(path, data, content_type="application/json", headers=self._headers | headers)

    def delete(self, path: str, **headers: str) -> Answer:
        """Send a DELETE."""
        return self._client.delete(path, headers=self._headers | headers)


def problem(answer: Answer) -> dict[str, Any]:
    """Return the problem that an answer is, having looked at its form."""
    assert answer["Content-Type"] == "application/problem+json", answer.content
    found: dict[str, Any] = json.loads(answer.content)
    assert found["status"] == answer.status_code
    members = {"type", "title", "status", "detail", "code", "errors", "request_id"}
    assert found.keys() - {"present_version", "checks"} == members
    assert found["errors"]
    assert all(isinstance(error, str) for error in found["errors"])
    return found
