"""Names each request, so that an answer, a log line, a task and a user's report can be brought together."""

import re

from django.http import HttpRequest

from runqy.broker.message import REQUEST_ID, TRACEPARENT
from runqy.randomness import random_bytes

_GIVEN = re.compile(r"[!-~]{1,128}")
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
"""W3C Trace Context."""


def request_id(request: HttpRequest) -> str:
    """Return the id of a request: the client's or proxy's X-Request-ID if it is a plain one, else a random one."""
    known: str | None = request.META.get("runqy.request_id")
    if known is None:
        given = request.META.get("HTTP_X_REQUEST_ID", "")
        known = request.META["runqy.request_id"] = given if _GIVEN.fullmatch(given) else random_bytes().hex()[:16]
    return known


def trace_headers(request: HttpRequest) -> dict[str, str]:
    """Return what the tasks of a request carry on: its id, and the trace that it belongs to if there is one."""
    headers = {REQUEST_ID: request_id(request)}
    if (parent := request.META.get("HTTP_TRACEPARENT")) and _TRACEPARENT.fullmatch(parent):
        headers[TRACEPARENT] = parent
    return headers
