"""Builds the answers of the API: JSON, and problems as RFC 9457 describes them."""

from http import HTTPStatus
from http.cookies import SimpleCookie
from typing import Any

import msgspec
from django.http import HttpRequest, HttpResponse
from django.http.response import ResponseHeaders

from runqy.api.request_ids import request_id
from runqy.errors import RunqyError, TooManyRequests

RETRY_AFTER_S = "2"

_encode = msgspec.json.Encoder().encode


def json_answer(content: Any, status: int = 200) -> HttpResponse:
    """Return content as JSON; `msgspec.Raw` in it goes out byte for byte."""
    return _answer(_encode(content), "application/json", status)


def problem_answer(error: RunqyError, request: HttpRequest) -> HttpResponse:
    """Return what an error looks like to a client."""
    answer = _answer(problem_of(error, request_id(request)), "application/problem+json", error.status)
    # Django would log a 503 as an error. What we raise ourselves is logged where it matters, and only bugs are 500.
    answer._has_been_logged = error.status != 500  # type: ignore[attr-defined]
    if error.status == 401:
        answer["WWW-Authenticate"] = 'Bearer realm="runqy"'
    elif isinstance(error, TooManyRequests):
        answer["Retry-After"] = str(error.retry_after_s)
    elif error.status == 503:
        answer["Retry-After"] = RETRY_AFTER_S
    return answer


def problem_of(error: RunqyError, name: str) -> bytes:
    """Return an error in a request of this name as RFC 9457 spells it."""
    return _encode(
        {
            "type": "about:blank",
            "title": HTTPStatus(error.status).phrase,
            "status": error.status,
            "detail": error.detail,
            "code": error.code,
            "errors": error.errors,
            "request_id": name,
            **error.extension,
        }
    )


_DEFAULTS = vars(HttpResponse(content_type="application/json"))  # without a type it would ask the settings


def _answer(body: bytes, content_type: str, status: int) -> HttpResponse:
    """Return an answer of known length, which the server then need not send in chunks.

    It is put together of what Django makes answers of, past the questions that it asks about each: what kind of content
    this is, whether the headers are well formed. They take as long as making the content.
    """
    answer = HttpResponse.__new__(HttpResponse)
    headers = ResponseHeaders({})
    headers._store = {
        "content-type": ("Content-Type", content_type),
        "content-length": ("Content-Length", str(len(body))),
    }
    answer.__dict__ = {
        **_DEFAULTS,
        "status_code": status,
        "headers": headers,
        "cookies": SimpleCookie(),
        "_container": [body],
        "_resource_closers": [],
    }
    return answer
