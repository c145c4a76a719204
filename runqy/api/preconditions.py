"""Reads the conditions under which a request is meant: If-Match and If-None-Match (RFC 9110, 13.1).

A version is any short text that changes with what it is the version of; as `ETag` it goes out in quotes. Reading:

    return tagged(json_answer(...), version)        # or not_modified(version), if is_known(request, version)
    return conditional(request, json_answer(...))   # where nothing but the answer itself tells versions apart

Writing: the operation takes `check`, and calls it with the version it finds inside of its transaction.

    operations.delete_vault(name=name, check=if_match(request))
"""

import hashlib
import re
from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

from runqy.errors import PreconditionFailed, PreconditionRequired

Check = Callable[[str | None], None]
"""Takes the version that there is; None: there is nothing. Raises PreconditionFailed when something else was meant."""

_TAG = re.compile(r'\s*(W/)?"([\x21\x23-\x7e\x80-\xff]*)"\s*(?:,|$)')


def version_of(*parts: object) -> str:
    """Return a version that differs when any of the parts does."""
    return hashlib.sha256("\0".join(map(str, parts)).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def etag(version: str) -> str:
    """Return a version as the header spells it."""
    return f'"{version}"'


def tagged(response: HttpResponse, version: str) -> HttpResponse:
    """Return an answer with the version of what it shows."""
    response["ETag"] = etag(version)
    return response


def conditional(request: HttpRequest, response: HttpResponse) -> HttpResponse:
    """Return an answer tagged by its own bytes, or that the client has them already (RFC 9110, 13.1.2).

    An answer of another status than 200 may be another one the next time, and is left alone.
    """
    if response.status_code != 200:
        return response
    version = hashlib.blake2b(response.content, digest_size=16).hexdigest()
    return not_modified(version) if is_known(request, version) else tagged(response, version)


def if_match(request: HttpRequest, *, is_required: bool = False) -> Check:
    """Return the check that a request's If-Match asks for; without the header everything is right.

    Raises PreconditionRequired when the header is missing and has to be there; an unreadable one, or one that is empty
    because its sender lost the tag, matches nothing.
    """
    header = request.META.get("HTTP_IF_MATCH")
    if header is None and is_required:
        raise PreconditionRequired
    if header is None:
        return lambda _: None
    header = header.strip()
    meant = {tag for is_weak, tag in _tags(header) if not is_weak}  # a weak tag promises too little to overwrite on

    def check(version: str | None) -> None:
        if version is None:
            raise PreconditionFailed("It does not exist, and is to be changed only if it does (If-Match).")
        if header != "*" and version not in meant:
            raise PreconditionFailed(f"It has changed: its ETag is {etag(version)} now.")

    return check


def is_known(request: HttpRequest, version: str) -> bool:
    """Tell whether the client has this version already, by If-None-Match."""
    header = request.META.get("HTTP_IF_NONE_MATCH", "").strip()
    return bool(header) and (header == "*" or any(tag == version for _, tag in _tags(header)))


def not_modified(version: str) -> HttpResponse:
    """Return the answer to a client that has this version already."""
    response = HttpResponse(status=304, headers={"ETag": etag(version)})
    del response["Content-Type"]
    return response


def _tags(header: str) -> list[tuple[str, str]]:
    """Return the tags of a header, each with what makes it a weak one; nothing where it is no list of tags."""
    tags, position = [], 0
    while position < len(header):
        found = _TAG.match(header, position)
        if found is None:
            return []
        tags.append((found[1] or "", found[2]))
        position = found.end()
    return tags
