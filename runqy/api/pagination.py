"""Pagination by cursor. A cursor is the position of the last item, opaque to clients."""

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec
from django.core.signing import BadSignature, Signer
from django.utils.http import urlencode
from rest_framework.pagination import BasePagination
from rest_framework.request import Request
from rest_framework.response import Response

from runqy.api.query_parameters import LimitParameter
from runqy.api.serializers import BodySerializer
from runqy.core.formats.json_decoding import read_json
from runqy.errors import RequestInvalid

T = TypeVar("T")
P = TypeVar("P")

DEFAULT_LIMIT, MAX_LIMIT = 30, 1000
_LIMIT_HELP = f"Items per page: {DEFAULT_LIMIT} by default, at most {MAX_LIMIT}."
_MAX_CURSOR_LENGTH = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class PagedList(Generic[T, P]):
    """Passed to `paginate_queryset` in place of a queryset, since most lists are in Redis or of two tables."""

    read: Callable[[int, P | None], tuple[Sequence[T], P | None]]
    """Takes a page's length and the end of the page before. Returns the items and their end, None on the last page."""
    position: type[P]
    identity: str = ""
    """The name of the list. A cursor of another list is refused."""


class SignedCursorPagination(BasePagination):
    """The requested page, and the response with a link to the next one."""

    def paginate_queryset(self, queryset: PagedList[T, Any], request: Request, view: Any = None) -> list[T]:  # type: ignore[override]
        """Return the items of the requested page. Raise RequestInvalid."""
        self._request, self._identity = request, queryset.identity
        limit = LimitSerializer.validated(request.query_params.dict())["limit"]
        after = decode_cursor(request.query_params.get("cursor", ""), queryset.position, queryset.identity)
        items, self._end = queryset.read(limit, after)
        return list(items)

    def get_paginated_response(self, data: Mapping[str, Any]) -> Response:
        """Return a page with `next` and a Link header (RFC 8288)."""
        if self._end is None:
            return Response({**data, "next": None})
        query = self._request.query_params.dict() | {"cursor": encode_cursor(self._end, self._identity)}
        query.pop("wait", None)  # the first page has waited
        target = f"{self._request.get_full_path().partition('?')[0]}?{urlencode(query)}"
        return Response({**data, "next": target}, headers={"Link": f'<{target}>; rel="next"'})

    def get_schema_operation_parameters(self, view: Any) -> list[dict[str, Any]]:
        cursor = "The start of the page, from `next` of the previous page."
        return [
            {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1}, "description": _LIMIT_HELP},
            {"name": "cursor", "in": "query", "schema": {"type": "string"}, "description": cursor},
        ]


class LimitSerializer(BodySerializer):
    """The length of a list."""

    limit = LimitParameter(_LIMIT_HELP, default=DEFAULT_LIMIT, most=MAX_LIMIT)


def encode_cursor(position: object, identity: str = "") -> str:
    """Return a position as a signed cursor. A forged one could make the next page expensive."""
    return _signer(identity).sign(base64.urlsafe_b64encode(msgspec.json.encode(position)).rstrip(b"=").decode())


def decode_cursor(text: str, kind: type[T], identity: str = "") -> T | None:
    """Return the position in a cursor of this list; None for an empty one. Raise RequestInvalid."""
    if not text:
        return None
    try:
        if len(text) > _MAX_CURSOR_LENGTH:
            raise ValueError("too long")
        position = _signer(identity).unsign(text)
        return read_json(base64.b64decode(position + "=" * (-len(position) % 4), b"-_", validate=True), kind)
    except (BadSignature, ValueError, msgspec.DecodeError, binascii.Error, RecursionError) as error:
        raise RequestInvalid(errors=["cursor: Invalid or from another list."]) from error


def _signer(identity: str) -> Signer:
    return Signer(salt=f"runqy cursor {identity}", sep=".")
