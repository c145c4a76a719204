"""The SDK's client for the command line: JSON stays as the server sent it, and errors are those of the command line."""

import math
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx2
import msgspec

from runqy.cli.errors import ServerError
from runqy.cli.values import decode_object
from runqy_sdk.client.base import Connection
from runqy_sdk.client.errors import ApiError, ClientError, ServerUnreachable
from runqy_sdk.client.events import Following
from runqy_sdk.client.models import Event
from runqy_sdk.client.operations import Call, Operation, Pause, Retries, await_end, send
from runqy_sdk.client.sync import Requests

T = TypeVar("T")
Note = Callable[[str], None]
"""Prints a remark."""

_TIMEOUT_S = 30.0


class Client:
    """A client of one server, with an API key. All methods raise ServerError."""

    def __init__(self, url: str, key: str, transport: httpx2.BaseTransport | None = None) -> None:
        # Whether the server saved a change that it could not publish yet.
        self.has_unpublished = False
        self._url = url
        try:
            self._requests = Requests(Connection((url, key), _TIMEOUT_S, transport=transport, decode=decode_object))
        except httpx2.InvalidURL as error:
            raise ServerError(f"{url} is not a URL: {error}", code="no_server") from error

    def get(self, path: str, *, timeout_s: float = _TIMEOUT_S, **query: str | int) -> dict[str, Any]:
        """Return the decoded response."""
        return self._send(Call("GET", path, _texts(query), extra_timeout_s=timeout_s - _TIMEOUT_S))

    def post(self, path: str, body: object = None, *, idempotency_key: str = "") -> dict[str, Any]:
        """Send an object, if there is one, and return the decoded response."""
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        return self._send(Call("POST", path, body=_encode(body), headers=headers))

    def patch(self, path: str, body: object) -> dict[str, Any]:
        """Send an object and return the decoded response."""
        return self._send(Call("PATCH", path, body=_encode(body)))

    def delete(self, path: str) -> dict[str, Any]:
        """Return the decoded response."""
        return self._send(Call("DELETE", path))

    def await_end(
        self, path: str, wait_s: float | None, note: Note, *, has_ended: Callable[[Any], bool], **query: str | int
    ) -> dict[str, Any]:
        """Return the response of a path when it says that something has ended, or after `wait_s`."""
        patience = Patience(note)
        found: dict[str, Any] = self.run(await_end(path, wait_s, patience, has_ended=has_ended, query=_texts(query)))
        return found

    def follow(self, path: str, note: Note, **query: str | int) -> Iterator[Event]:
        """Yield the events of a path until their end, also after the connection was lost."""
        with self._translated():
            yield from self._requests.follow(Following(path, Patience(note), query=_texts(query)))

    def run(self, operation: Operation[T]) -> T:
        """Carry out an operation of the SDK."""
        with self._translated():
            return self._requests.run(operation)

    def close(self) -> None:
        self._requests.close()

    def _send(self, call: Call) -> dict[str, Any]:
        body: dict[str, Any] = self.run(send(call, Retries(0)))
        self.has_unpublished = self.has_unpublished or body.get("published") is False
        return body

    @contextmanager
    def _translated(self) -> Generator[None, None, None]:
        try:
            yield
        except ClientError as error:
            raise to_server_error(error, self._url) from error


class Patience(Retries):
    """Repeats what fails once the server has responded, and prints why. A first request that fails is an error.

    With `waits_at_first` it is one only if the server cannot be reached.
    """

    def __init__(self, note: Note, retry_for_s: float = math.inf, *, waits_at_first: bool = False) -> None:
        super().__init__(retry_for_s)
        self._note, self._waits_at_first = note, waits_at_first
        self._has_connected = self._is_away = False

    def reset(self) -> None:
        super().reset()
        self._has_connected, self._is_away = True, False

    def next_pause(self, error: ApiError | ServerUnreachable | None) -> Pause:
        may_wait = self._has_connected or (self._waits_at_first and isinstance(error, ApiError))
        if error is not None and not may_wait:
            raise error
        if error is not None and not self._is_away:
            self._note(f"{to_server_error(error)} Trying again.")
            self._is_away = True
        return super().next_pause(error)


def to_server_error(error: ClientError, url: str = "") -> ServerError:
    """Return an error of the SDK as one that ends a command: all its messages, and an exit status for its kind."""
    if not isinstance(error, ApiError):
        return ServerError(str(error), code="unreachable", is_temporary=True)
    if 0 < error.status < 400:
        return ServerError(f"{url} is not a runqy server: {error}", code="no_server")
    detail, errors = str(error), list(error.errors)
    # Where the server has no sentence of its own, the detail is all errors in one line.
    is_list = len(errors) > 1 and detail.startswith(errors[0].removesuffix("."))
    lines = errors if is_list else [detail, *(each for each in errors if each != detail)]
    return ServerError(
        "\n  ".join(lines),
        code=error.received_code,
        status=error.status,
        is_temporary=error.is_temporary,
        retry_after_s=error.retry_after,
    )


def _texts(query: dict[str, str | int]) -> dict[str, str]:
    return {name: str(value) for name, value in query.items()}


def _encode(body: object) -> bytes:
    return b"" if body is None else msgspec.json.encode(body)
