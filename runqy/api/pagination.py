"""Pagination by cursor: the position of the last item, opaque to clients."""

import base64
import binascii
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from django.core.signing import BadSignature, Signer
from django.utils.http import urlencode
from drf_spectacular.utils import OpenApiParameter
from rest_framework.request import Request
from rest_framework.response import Response

from runqy.errors import RequestInvalid
from runqy.json_decoding import read_json

T = TypeVar("T")

DEFAULT_LIMIT, MAX_LIMIT = 30, 1000
_MAX_CURSOR_LENGTH = 4096

PAGE_PARAMETERS = [
    OpenApiParameter(
        "limit",
        {"type": "integer", "minimum": 1},
        description=f"Items per page: {DEFAULT_LIMIT} by default, at most {MAX_LIMIT}.",
    ),
    OpenApiParameter("cursor", str, description="The start of the page, from `next` of the previous page."),
]


class CursorPaginator:
    """The requested page, and the response with a link to the next one."""

    def __init__(self, request: Request, *, default_limit: int = DEFAULT_LIMIT, max_limit: int = MAX_LIMIT) -> None:
        self._request = request
        self._default_limit, self._max_limit = default_limit, max_limit

    @property
    def limit(self) -> int:
        """Return the page size; one beyond the maximum is the maximum. Raise RequestInvalid."""
        text = self._request.query_params.get("limit", "") or str(self._default_limit)
        if not (text.isascii() and text.isdigit()) or int(text[:20]) < 1:
            raise RequestInvalid(errors=["limit: Must be a positive integer."])
        return min(int(text[:20]), self._max_limit)

    def cursor(self, kind: type[T]) -> T | None:
        """Return the position that the request's cursor holds; None for the first page. Raise RequestInvalid."""
        return decode_cursor(self._request.query_params.get("cursor", ""), kind)

    def get_paginated_response(self, data: Mapping[str, Any], next_position: object | None = None) -> Response:
        """Return a page with `next` and a Link header (RFC 8288); no position: it is the last one."""
        if next_position is None:
            return Response({**data, "next": None})
        query = self._request.query_params.dict() | {"cursor": encode_cursor(next_position)}
        target = f"{self._request.get_full_path().partition('?')[0]}?{urlencode(query)}"
        return Response({**data, "next": target}, headers={"Link": f'<{target}>; rel="next"'})


def encode_cursor(position: object) -> str:
    """Return a position for a query, signed: a forged one could make the next page expensive."""
    return _signer().sign(base64.urlsafe_b64encode(msgspec.json.encode(position)).rstrip(b"=").decode())


def decode_cursor(text: str, kind: type[T]) -> T | None:
    """Return the position in a cursor; None for an empty one. Raise RequestInvalid."""
    if not text:
        return None
    try:
        if len(text) > _MAX_CURSOR_LENGTH:
            raise ValueError("too long")
        position = _signer().unsign(text)
        return read_json(base64.b64decode(position + "=" * (-len(position) % 4), b"-_", validate=True), kind)
    except (BadSignature, ValueError, msgspec.DecodeError, binascii.Error, RecursionError) as error:
        raise RequestInvalid(errors=["cursor: is invalid, or belongs to another list."]) from error


def _signer() -> Signer:
    return Signer(salt="runqy cursor", sep=".")
