"""Responses of the data plane, with the headers that DRF and Django's middleware would send."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from http import HTTPStatus

from django.conf import settings

from runqy.api.exceptions import PROBLEM_TYPE, problem, problem_headers
from runqy.api.renderers import JSON_TYPE, encode_json
from runqy.core.telemetry.tracing import current_request_id
from runqy.errors import RunqyError
from runqy.server.security_headers import cors_headers, security_headers
from tasks.waiting_loop import ClosableIterator

Headers = list[tuple[bytes, bytes]]


@dataclass(slots=True)
class Response:
    """A response whose body is in memory."""

    status: int
    headers: Headers
    body: bytes = b""


@dataclass(slots=True)
class StreamingResponse:
    """A response whose body is sent in chunks. `chunks` is closed at its end, or when the client disconnects."""

    status: int
    headers: Headers
    chunks: ClosableIterator = field(repr=False)


def json_response(body: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(status, [*_content_headers(JSON_TYPE, body), *encode_headers(headers or {})], body)


def empty_response(status: int, headers: Mapping[str, str]) -> Response:
    return Response(status, [(b"content-length", b"0"), *encode_headers(headers)])


def problem_response(error: RunqyError) -> Response:
    """Return an error as a problem (RFC 9457)."""
    body = encode_json(problem(error))
    headers = encode_headers(problem_headers(error))
    return Response(error.status, [*_content_headers(PROBLEM_TYPE, body), *headers], body)


def encode_headers(headers: Mapping[str, str]) -> Iterable[tuple[bytes, bytes]]:
    """Return headers as ASGI has them: pairs of bytes, names in lower case."""
    return ((name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items())


def shared_headers(scheme: str, origin: str = "") -> Headers:
    """Return the headers that Django's middleware adds to every response: request id, security headers, CORS."""
    cors = encode_headers(cors_headers(origin)) if settings.RUNQY_CORS_ORIGINS else ()
    return [(b"x-request-id", current_request_id().encode("latin-1")), *encoded_security_headers(scheme), *cors]


@cache  # settings change only in tests
def encoded_security_headers(scheme: str) -> tuple[tuple[bytes, bytes], ...]:
    return tuple(encode_headers(security_headers(scheme)))


def _content_headers(content_type: str, body: bytes) -> Headers:
    return [(b"content-type", content_type.encode("ascii")), (b"content-length", b"%d" % len(body))]


def render_head(status: int, headers: Headers) -> bytes:
    lines = [b"HTTP/1.1 %d %s" % (status, HTTPStatus(status).phrase.encode("ascii"))]
    lines += [b"%s: %s" % header for header in headers]
    return b"\r\n".join(lines) + b"\r\n\r\n"
