"""A client of the API, on either plane."""

import json
from typing import Any

from django.test import Client

from tests.api import planes
from tests.api.planes import SentRequest
from tests.support.environment import ADMIN_KEY

Response = Any
"""What Django's test client returns: an HttpResponse with its request."""


class ApiClient:
    """Sends requests with one key and reads JSON."""

    def __init__(self, key: str | None = ADMIN_KEY, *, address: str = "127.0.0.1", scheme: str = "http") -> None:
        self._client = Client(raise_request_exception=False)
        self._address, self._scheme = address, scheme
        self._headers = {"Authorization": f"Bearer {key}"} if key is not None else {}

    def get(self, path: str, **headers: str) -> Response:
        """Send a GET."""
        return self._send("GET", path, b"", headers)

    def post(self, path: str, body: Any = b"", content_type: str = "application/json", **headers: str) -> Response:
        """Send a POST; a body that is not bytes is encoded as JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self._send("POST", path, data, headers, content_type)

    def patch(self, path: str, body: Any = None, **headers: str) -> Response:
        """Send a PATCH with a body of JSON."""
        return self._send("PATCH", path, json.dumps(body).encode(), headers)

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
        request = SentRequest(
            method=method,
            path=path,
            headers={"Content-Type": content_type} | headers,
            body=body,
            address=self._address,
            scheme=self._scheme,
        )
        return planes.send(request, lambda: self._send_to_django(method, path, body, headers, content_type))

    def _send_to_django(
        self, method: str, path: str, body: bytes, headers: dict[str, str], content_type: str
    ) -> Response:
        return self._client.generic(
            method,
            path,
            body,
            content_type=content_type,
            headers={"Host": "testserver"} | headers,
            secure=self._scheme == "https",
            REMOTE_ADDR=self._address,
        )


def content(client: ApiClient, path: str) -> Any:
    """Return the JSON at a path."""
    response = client.get(path)
    assert response.status_code == 200, response.content
    return json.loads(response.content)


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
