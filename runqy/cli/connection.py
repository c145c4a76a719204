"""Speaks with a server over HTTP for the command line."""

import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import msgspec

_TIMEOUT_S = 30.0
_LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")


class ServerRefused(Exception):
    """The server answered with an error, or not at all."""

    def __init__(self, detail: str, *, code: str = "", status: int = 0) -> None:
        super().__init__(detail)
        self.code = code
        self.status = status


class Server:
    """A runqy server and the key to it."""

    def __init__(self, url: str, key: str, transport: httpx2.BaseTransport | None = None) -> None:
        """Take its address and a key; tests bring a transport that leads to the application itself."""
        self.has_unpublished = False
        """Whether the server saved a change that is not published yet."""
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        self._client = httpx2.Client(
            base_url=url, headers=headers if key else {}, timeout=_TIMEOUT_S, transport=transport
        )

    def post(self, path: str, body: bytes) -> dict[str, Any]:
        """Send JSON and return the answer. Raises ServerRefused."""
        return self._request("POST", path, content=body)

    def get(self, path: str, *, timeout_s: float = _TIMEOUT_S, **query: str | int) -> dict[str, Any]:
        """Return what is at a path. Raises ServerRefused."""
        return self._request("GET", path, params=query or None, timeout=timeout_s)

    def delete(self, path: str) -> dict[str, Any]:
        """Ask for the end of what is at a path and return the answer. Raises ServerRefused."""
        return self._request("DELETE", path)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _request(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        try:
            response = self._client.request(method, path, **options)
        except httpx2.TransportError as error:
            raise ServerRefused(f"{self._client.base_url} cannot be reached: {error}", code="unreachable") from error
        if response.is_error:
            raise _refusal(response)
        try:
            answer: dict[str, Any] = msgspec.json.decode(response.content, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise ServerRefused(f"{self._client.base_url} is no runqy server: {error}", code="no_server") from error
        self.has_unpublished = self.has_unpublished or answer.get("published") is False
        return answer


def find_key(url: str, given: str, home: Path) -> str:
    """Return the key to use: the given one, or for a server on this machine the one that `runqy up` keeps."""
    kept = home / "api_key"
    if given or urlsplit(url).hostname not in _LOCAL_HOSTS or not os.access(kept, os.R_OK):
        return given
    return kept.read_text("ascii").strip()


def _refusal(response: httpx2.Response) -> ServerRefused:
    """Read a problem (RFC 9457); what is none is shown as it is."""
    try:
        problem = msgspec.json.decode(response.content, type=dict[str, Any])
    except msgspec.DecodeError:
        text = response.text.strip() or response.reason_phrase
        return ServerRefused(f"HTTP {response.status_code}: {text}", status=response.status_code)
    errors = [str(error) for error in problem.get("errors") or []]
    detail = str(problem.get("detail") or "; ".join(errors) or f"HTTP {response.status_code}")
    return ServerRefused(
        "\n  ".join([detail, *(error for error in errors if error != detail)]),
        code=str(problem.get("code", "")),
        status=response.status_code,
    )
