"""Responses of the API: JSON by msgspec, errors as RFC 9457 describes them, timestamps as RFC 3339 does."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from http import HTTPStatus
from typing import Any

import msgspec
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from runqy.errors import RunqyError, TooManyRequests
from runqy.request_ids import current_request_id

JSON_TYPE = "application/json"
PROBLEM_TYPE = "application/problem+json"
RETRY_AFTER_S = 2

encode_json = msgspec.json.Encoder().encode


class JSONRenderer(BaseRenderer):
    """Render JSON; a `msgspec.Raw` in the data is written byte for byte."""

    media_type = JSON_TYPE
    format = "json"
    charset = None
    render_style = "binary"

    def render(
        self, data: Any, accepted_media_type: str | None = None, renderer_context: Mapping[str, Any] | None = None
    ) -> bytes:
        return b"" if data is None else encode_json(data)


class JSONOnlyNegotiation(BaseContentNegotiation):
    """Parse and render JSON regardless of Content-Type and Accept: released clients and curl send other types."""

    def select_parser(self, request: Request, parsers: Any) -> Any:
        return parsers[0]

    def select_renderer(self, request: Request, renderers: Any, format_suffix: str | None = None) -> Any:
        return renderers[0], renderers[0].media_type


def problem(error: RunqyError) -> dict[str, Any]:
    """Return the body of an error response."""
    return {
        "type": "about:blank",
        "title": HTTPStatus(error.status).phrase,
        "status": error.status,
        "detail": error.detail,
        "code": error.code,
        "errors": error.errors,
        "request_id": current_request_id(),
        **error.extension,
    }


def problem_headers(error: RunqyError) -> dict[str, str]:
    """Return the headers of an error response."""
    if error.status == 401:
        return {"WWW-Authenticate": 'Bearer realm="runqy"'}
    if isinstance(error, TooManyRequests):
        return {"Retry-After": str(error.retry_after_s)}
    return {"Retry-After": str(RETRY_AFTER_S)} if error.status == 503 else {}


def problem_response(error: RunqyError) -> Response:
    """Return the response of a view for an error."""
    return Response(problem(error), error.status, headers=problem_headers(error), content_type=PROBLEM_TYPE)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def format_s(seconds: int | None) -> str | None:
    """Return Unix seconds as RFC 3339 in UTC."""
    return None if seconds is None else format_ns(seconds * 10**9)


def format_ns(nanoseconds: int | None) -> str | None:
    """Return Unix nanoseconds as RFC 3339 in UTC; at most the end of the year 9999."""
    if nanoseconds is None:
        return None
    seconds, rest = divmod(nanoseconds, 10**9)
    start = _second(seconds)
    return f"{start}.{rest // 1000:06}Z" if rest >= 1000 and start is not _END else f"{start}Z"


_END = "9999-12-31T23:59:59"


@lru_cache(maxsize=256)
def _second(seconds: int) -> str:
    """Return a Unix second without its fraction; the timestamps of one response share few of them."""
    try:
        return (_EPOCH + timedelta(seconds=seconds)).isoformat().removesuffix("+00:00")
    except OverflowError:
        return _END


def format_datetime(time: datetime) -> str:
    """Return a datetime as RFC 3339 in UTC, in whole seconds."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
