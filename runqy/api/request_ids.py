"""Names each request, so that an answer, a log line and a user's report can be brought together."""

import re
import secrets

from django.http import HttpRequest

_GIVEN = re.compile(r"[A-Za-z0-9._-]{1,64}")


def request_id(request: HttpRequest) -> str:
    """Return the id of a request: the client's or proxy's X-Request-ID if it is a plain one, else a random one."""
    known: str | None = request.META.get("runqy.request_id")
    if known is None:
        given = request.META.get("HTTP_X_REQUEST_ID", "")
        known = request.META["runqy.request_id"] = given if _GIVEN.fullmatch(given) else secrets.token_hex(8)
    return known
