"""ETags and conditional requests: If-None-Match and If-Match (RFC 9110, 13.1).

To read, `return etag_response(request, serializer.data, version)`. To write, pass a precondition to the operation,
which calls it with the current version inside its transaction:

    operations.delete_vault(name=name, precondition=if_match(request))
"""

import hashlib
from collections.abc import Mapping
from typing import Any

from django.utils.http import parse_etags, quote_etag
from rest_framework.request import Request
from rest_framework.response import Response

from runqy.core.preconditions import Precondition, accept_any
from runqy.errors import PreconditionFailed, PreconditionRequired


def content_version(body: bytes) -> str:
    """Return the version of a representation whose object has no version: a digest of its bytes."""
    return hashlib.blake2b(body, digest_size=16).hexdigest()


def etag_response(request: Request, data: Any, version: str, **response: Any) -> Response:
    """Return the response for a representation: 304 if the client has this version already."""
    if matches_if_none_match(request.headers, version):
        return Response(status=304, headers={"ETag": quote_etag(version)})
    return Response(data, headers={"ETag": quote_etag(version)}, **response)


def matches_if_none_match(headers: Mapping[str, str], version: str) -> bool:
    """Return whether If-None-Match names this version. The comparison is weak, as RFC 9110 defines for GET."""
    etags = parse_etags(headers.get("If-None-Match", ""))
    return etags == ["*"] or quote_etag(version) in {etag.removeprefix("W/") for etag in etags}


def if_match(request: Request, *, is_required: bool = False) -> Precondition:
    """Return the precondition of a request's If-Match header. Without the header every version is accepted.

    Raise PreconditionRequired if a required header is missing. Malformed headers and weak ETags match nothing.
    """
    header = request.headers.get("If-Match")
    if header is None and is_required:
        raise PreconditionRequired
    if header is None:
        return accept_any
    etags = parse_etags(header.strip())

    def check(version: str | None) -> None:
        if version is None:
            raise PreconditionFailed("The object does not exist (If-Match).")
        if etags != ["*"] and quote_etag(version) not in etags:
            raise PreconditionFailed(f"The object has changed: its ETag is {quote_etag(version)}.")

    return check
