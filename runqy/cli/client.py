"""The HTTP client of the command line."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import msgspec

_TIMEOUT_S = 30.0
_DEFAULT_URL = "http://localhost:3000"
_LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")


class ExitCode(IntEnum):
    """Exit codes. The code 2 is a usage error, as in Click."""

    FAILED = 1
    DENIED = 3
    NOT_FOUND = 4
    CONFLICT = 5
    UNAVAILABLE = 6
    TASK_FAILED = 7


_BY_CODE = {"unreachable": ExitCode.UNAVAILABLE, "no_server": ExitCode.UNAVAILABLE}
_BY_STATUS = {
    401: ExitCode.DENIED,
    403: ExitCode.DENIED,
    404: ExitCode.NOT_FOUND,
    409: ExitCode.CONFLICT,
    412: ExitCode.CONFLICT,
    503: ExitCode.UNAVAILABLE,
}


class ServerError(Exception):
    """The server responded with an error, or cannot be reached."""

    def __init__(self, detail: str, *, code: str = "", status: int = 0) -> None:
        super().__init__(detail)
        self.code = code
        self.status = status

    @property
    def exit_code(self) -> ExitCode:
        return _BY_CODE.get(self.code) or _BY_STATUS.get(self.status, ExitCode.FAILED)


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """An event of a stream. Its data is one line of JSON."""

    name: str
    data: dict[str, Any]
    id: str = ""


class Client:
    """A client of one server, with an API key."""

    def __init__(self, url: str, key: str, transport: httpx2.BaseTransport | None = None) -> None:
        # Whether the server saved a change that it could not publish yet.
        self.has_unpublished = False
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        self._client = httpx2.Client(
            base_url=url, headers=headers if key else {}, timeout=_TIMEOUT_S, transport=transport
        )

    def post(self, path: str, body: bytes) -> dict[str, Any]:
        """Send JSON and return the decoded response. Raise ServerError."""
        return self._request("POST", path, content=body)

    def get(self, path: str, *, timeout_s: float = _TIMEOUT_S, **query: str | int) -> dict[str, Any]:
        """Return the decoded response. Raise ServerError."""
        return self._request("GET", path, params=query or None, timeout=timeout_s)

    def delete(self, path: str) -> dict[str, Any]:
        """Return the decoded response. Raise ServerError."""
        return self._request("DELETE", path)

    def stream(self, path: str, *, last_id: str = "", **query: str | int) -> Iterator[ServerSentEvent]:
        """Yield the server-sent events of the response. Raise ServerError."""
        headers = {"Last-Event-ID": last_id} if last_id else {}
        try:
            with self._client.stream("GET", path, params=query, headers=headers) as response:
                if response.is_error:
                    response.read()
                    raise _parse_error(response)
                yield from _parse_events(_split_lines(response.iter_bytes()))
        except httpx2.TransportError as error:
            raise self._unreachable(error) from error

    def close(self) -> None:
        self._client.close()

    def _request(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        try:
            response = self._client.request(method, path, **options)
        except httpx2.TransportError as error:
            raise self._unreachable(error) from error
        if response.is_error:
            raise _parse_error(response)
        try:
            body: dict[str, Any] = msgspec.json.decode(response.content, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise ServerError(f"{self._client.base_url} is not a runqy server: {error}", code="no_server") from error
        self.has_unpublished = self.has_unpublished or body.get("published") is False
        return body

    def _unreachable(self, error: Exception) -> ServerError:
        return ServerError(f"{self._client.base_url} cannot be reached: {error}", code="unreachable")


def find_server_url(given: str, port: str, home: Path) -> tuple[str, str]:
    """Return the URL of the server, and for error messages where it comes from; empty if it was given."""
    file = home / "server_url"
    if given or port:
        return (given or f"http://localhost:{port}").rstrip("/"), ""
    if os.access(file, os.R_OK) and (kept := file.read_text("utf-8", errors="replace").strip()):
        return (
            kept,
            f"The address is from {file}, which `runqy up` wrote when it started. RUNQY_SERVER_URL overrides it.",
        )
    hint = (
        "This is the default address: set RUNQY_SERVER_URL, or run the command in the folder in which the stack runs."
    )
    return _DEFAULT_URL, hint


def find_api_key(url: str, given: str, home: Path) -> str:
    """Return the given key, or for a server on this machine the key in the home folder."""
    file = home / "api_key"
    if given or urlsplit(url).hostname not in _LOCAL_HOSTS or not os.access(file, os.R_OK):
        return given
    return file.read_text("ascii").strip()


def _split_lines(chunks: Iterable[bytes]) -> Iterator[str]:
    # httpx2's `iter_lines` also splits at U+0085 and U+2028, which JSON may contain.
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line.removesuffix(b"\r").decode(errors="replace") for line in lines)


def _parse_events(lines: Iterable[str]) -> Iterator[ServerSentEvent]:
    """Yield the events in the lines of a stream. Comments are skipped."""
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        if name in ("id", "event", "data"):
            fields[name] = value
        elif not line and "data" in fields:
            data = msgspec.json.decode(fields["data"], type=dict[str, Any])
            yield ServerSentEvent(fields.get("event", ""), data, fields.get("id", ""))
            fields = {}


def _parse_error(response: httpx2.Response) -> ServerError:
    """Return the error of a response: its problem document (RFC 9457), or else its text."""
    try:
        problem = msgspec.json.decode(response.content, type=dict[str, Any])
    except msgspec.DecodeError:
        text = response.text.strip() or response.reason_phrase
        return ServerError(f"HTTP {response.status_code}: {text}", status=response.status_code)
    errors = [str(error) for error in problem.get("errors") or []]
    detail = str(problem.get("detail") or "; ".join(errors) or f"HTTP {response.status_code}")
    return ServerError(
        "\n  ".join([detail, *(error for error in errors if error != detail)]),
        code=str(problem.get("code", "")),
        status=response.status_code,
    )
