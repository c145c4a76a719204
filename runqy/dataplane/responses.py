"""Responses of the data plane, and problems that never reach Django."""

import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Protocol

from runqy.api.answers import RETRY_AFTER_S, problem_of
from runqy.errors import RunqyError, TooManyRequests

Headers = list[tuple[bytes, bytes]]


class ClosableIterator(Protocol):
    """An asynchronous generator, or what looks like one."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def aclose(self) -> None: ...


@dataclass(slots=True)
class Response:
    """A response whose body is in memory."""

    status: int
    headers: Headers
    body: bytes = b""


@dataclass(slots=True)
class StreamingResponse:
    """A response whose body is sent as it comes; `chunks` is closed when it ends or the client disconnects."""

    status: int
    headers: Headers
    chunks: ClosableIterator = field(repr=False)


def problem_response(error: RunqyError, request_id: str) -> Response:
    """Return an error as RFC 9457 describes it."""
    body = problem_of(error, request_id)
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", b"%d" % len(body)),
        (b"x-request-id", request_id.encode("ascii")),
        (b"x-content-type-options", b"nosniff"),
    ]
    if error.status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="runqy"'))
    elif isinstance(error, TooManyRequests):
        headers.append((b"retry-after", b"%d" % error.retry_after_s))
    elif error.status == 503:
        headers.append((b"retry-after", RETRY_AFTER_S.encode("ascii")))
    return Response(error.status, headers, body)


def render_head(status: int, headers: Headers) -> bytes:
    """Return the head of a response as HTTP/1.1 spells it."""
    lines = [b"HTTP/1.1 %d %s" % (status, HTTPStatus(status).phrase.encode("ascii"))]
    lines += [b"%s: %s" % header for header in headers]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def new_request_id() -> str:
    """Return a random id for a request that came without one."""
    return secrets.token_hex(8)
