"""Lists page by page: the cursor in a request, and where the next page is, in the body and as a link (RFC 8288)."""

import base64
import binascii
from typing import Any, TypeVar

import msgspec
from django.http import HttpRequest, HttpResponse
from django.utils.http import urlencode
from drf_spectacular.utils import OpenApiParameter

from runqy.api.answers import json_answer
from runqy.errors import RequestInvalid
from runqy.structs import read_json

T = TypeVar("T")

DEFAULT_LIMIT, MOST = 30, 1000
_LONGEST_CURSOR = 4096

PAGE_PARAMETERS = [
    OpenApiParameter(
        "limit",
        {"type": "integer", "minimum": 1},
        description=f"How many at most, {DEFAULT_LIMIT} unless told; {MOST} are the most",
    ),
    OpenApiParameter("cursor", str, description="Where the page begins: as in the `next` of the page before"),
]


def read_limit(request: HttpRequest, *, default: int = DEFAULT_LIMIT, most: int = MOST) -> int:
    """Return how many a client asks for, and no more than there may be. Raises RequestInvalid."""
    text = request.GET.get("limit", "") or str(default)
    if not (text.isascii() and text.isdigit()) or int(text[:20]) < 1:
        raise RequestInvalid(errors=["limit: must be a whole number from 1"])
    return min(int(text[:20]), most)


def read_cursor(request: HttpRequest, kind: type[T]) -> T | None:
    """Return the cursor that `page_answer` gave out; None: from the beginning. Raises RequestInvalid."""
    text = request.GET.get("cursor", "")
    if not text:
        return None
    try:
        if len(text) > _LONGEST_CURSOR:
            raise ValueError("too long")
        return read_json(base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True), kind)
    except (ValueError, msgspec.DecodeError, binascii.Error, RecursionError) as error:
        raise RequestInvalid(errors=["cursor: is none that this list gave out"]) from error


def page_answer(request: HttpRequest, content: dict[str, Any], cursor: object | None) -> HttpResponse:
    """Return a page, with `next` and `Link` to the one behind it; None: there is none."""
    if cursor is None:
        return json_answer(content | {"next": None})
    query = request.GET.dict() | {"cursor": spelled(cursor)}
    target = f"{request.get_full_path().partition('?')[0]}?{urlencode(query)}"
    answer = json_answer(content | {"next": target})
    answer["Link"] = f'<{target}>; rel="next"'
    return answer


def spelled(cursor: object) -> str:
    """Return a cursor as it stands in a query."""
    return base64.urlsafe_b64encode(msgspec.json.encode(cursor)).rstrip(b"=").decode()
