"""Responses of the API: JSON by msgspec, and errors as RFC 9457 describes them."""

from collections.abc import Mapping
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
    """Parse and render JSON whatever Content-Type and Accept say: released clients and curl send others."""

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
    """Return the headers that an error response has besides."""
    if error.status == 401:
        return {"WWW-Authenticate": 'Bearer realm="runqy"'}
    if isinstance(error, TooManyRequests):
        return {"Retry-After": str(error.retry_after_s)}
    return {"Retry-After": str(RETRY_AFTER_S)} if error.status == 503 else {}


def problem_response(error: RunqyError) -> Response:
    """Return the response of a view for an error."""
    return Response(problem(error), error.status, headers=problem_headers(error), content_type=PROBLEM_TYPE)
