"""The HTTP client of the command line."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
import msgspec

from runqy.cli.errors import ServerError
from runqy.cli.values import decode_object

_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """An event of a stream. Its data is JSON."""

    name: str
    data: dict[str, Any]
    id: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """A successful response."""

    body: dict[str, Any]
    is_replayed: bool
    """Whether it is the response to an earlier request with the same Idempotency-Key."""


class Client:
    """A client of one server, with an API key."""

    def __init__(self, url: str, key: str, transport: httpx2.BaseTransport | None = None) -> None:
        # Whether the server saved a change that it could not publish yet.
        self.has_unpublished = False
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        try:
            self._client = httpx2.Client(
                base_url=url, headers=headers if key else {}, timeout=_TIMEOUT_S, transport=transport
            )
        except httpx2.InvalidURL as error:
            raise ServerError(f"{url} is not a URL: {error}", code="no_server") from error

    def post(self, path: str, body: bytes) -> dict[str, Any]:
        """Send JSON and return the decoded response. Raise ServerError."""
        return self._request("POST", path, content=body).body

    def put(self, path: str, body: bytes) -> dict[str, Any]:
        """Send JSON and return the decoded response. Raise ServerError."""
        return self._request("PUT", path, content=body).body

    def patch(self, path: str, body: bytes) -> dict[str, Any]:
        """Send JSON and return the decoded response. Raise ServerError."""
        return self._request("PATCH", path, content=body).body

    def post_once(self, path: str, body: bytes, *, key: str, timeout_s: float = _TIMEOUT_S) -> Reply:
        """Send JSON with an Idempotency-Key: a repetition is not applied twice. Raise ServerError."""
        return self._request("POST", path, content=body, headers={"Idempotency-Key": key}, timeout=timeout_s)

    def get(self, path: str, *, timeout_s: float = _TIMEOUT_S, **query: str | int) -> dict[str, Any]:
        """Return the decoded response. Raise ServerError."""
        return self._request("GET", path, params=query or None, timeout=timeout_s).body

    def delete(self, path: str) -> dict[str, Any]:
        """Return the decoded response. Raise ServerError."""
        return self._request("DELETE", path).body

    def stream(self, path: str, *, last_id: str = "", **query: str | int) -> Iterator[ServerSentEvent]:
        """Yield the server-sent events of the response, after one without data. Raise ServerError."""
        headers = {"Last-Event-ID": last_id} if last_id else {}
        try:
            with self._client.stream("GET", path, params=query, headers=headers) as response:
                if response.is_error:
                    response.read()
                    raise _parse_error(response)
                yield ServerSentEvent("open", {})
                yield from _parse_events(_split_lines(response.iter_bytes()))
        except httpx2.TransportError as error:
            raise self._unreachable(error) from error

    def close(self) -> None:
        self._client.close()

    def _request(self, method: str, path: str, **options: Any) -> Reply:
        try:
            response = self._client.request(method, path, **options)
        except httpx2.TransportError as error:
            raise self._unreachable(error) from error
        if response.is_error:
            raise _parse_error(response)
        try:
            body = decode_object(response.content)
        except msgspec.DecodeError as error:
            raise ServerError(f"{self._client.base_url} is not a runqy server: {error}", code="no_server") from error
        self.has_unpublished = self.has_unpublished or body.get("published") is False
        return Reply(body, "Idempotent-Replayed" in response.headers)

    def _unreachable(self, error: Exception) -> ServerError:
        return ServerError(
            f"{self._client.base_url} cannot be reached: {str(error) or type(error).__name__}", code="unreachable"
        )


def _split_lines(chunks: Iterable[bytes]) -> Iterator[str]:
    # httpx2's `iter_lines` also splits at U+0085 and U+2028, which JSON may contain.
    rest: list[bytes] = []  # the beginning of a line, joined once: a result may be one of many megabytes
    for chunk in chunks:
        end, *lines = chunk.split(b"\n")
        rest.append(end)
        if lines:
            lines, rest = [b"".join(rest), *lines[:-1]], lines[-1:]
            yield from (line.removesuffix(b"\r").decode(errors="replace") for line in lines)


def _parse_events(lines: Iterable[str]) -> Iterator[ServerSentEvent]:
    """Yield the events in the lines of a stream. Comments are skipped."""
    fields: dict[str, str] = {}
    data: list[str] = []  # lines of it: a result may have line breaks between its tokens
    for line in lines:
        name, _, value = line.partition(": ")
        if name == "data":
            data.append(value)
        elif name in ("id", "event"):
            fields[name] = value
        elif not line and data:
            decoded = decode_object("\n".join(data))
            yield ServerSentEvent(fields.get("event", ""), decoded, fields.get("id", ""))
            fields, data = {}, []


def _parse_error(response: httpx2.Response) -> ServerError:
    """Return the error of a response: its problem document (RFC 9457), or else its text."""
    try:
        problem = decode_object(response.content)
    except msgspec.DecodeError:
        text = response.text.strip() or response.reason_phrase
        return ServerError(f"HTTP {response.status_code}: {text}", status=response.status_code)
    errors = [str(error) for error in problem.get("errors") or []]
    detail = str(problem.get("detail") or "; ".join(errors) or f"HTTP {response.status_code}")
    # Where the server has no sentence of its own, the detail is all errors in one line.
    is_list = len(errors) > 1 and detail.startswith(errors[0].removesuffix("."))
    lines = errors if is_list else [detail, *(error for error in errors if error != detail)]
    error = ServerError(
        "\n  ".join(lines), code=str(problem.get("code", "")), status=response.status_code, errors=errors
    )
    if (seconds := response.headers.get("Retry-After", "")).isdecimal():
        error.retry_after_s = float(seconds)
    return error
