"""Reads the bodies of requests: whole, within the size limit, as JSON whose values keep their bytes."""

import re
from collections.abc import Mapping
from typing import Any, BinaryIO, TypeVar

import msgspec
from django.conf import settings
from django.http import HttpRequest

from runqy.errors import EncodingUnsupported, RequestInvalid, RequestTooLarge
from runqy.structs import convert

Members = dict[str, msgspec.Raw]
T = TypeVar("T")

_decode_members = msgspec.json.Decoder(Members).decode


def read_body(request: HttpRequest) -> bytes:
    """Return the body. Raises RequestTooLarge, EncodingUnsupported, RequestInvalid when it ended too early."""
    meta = request.META
    if meta.get("HTTP_CONTENT_ENCODING", "identity").lower() != "identity":
        raise EncodingUnsupported
    limit: int = settings.RUNQY_MAX_BODY_SIZE
    is_chunked = "chunked" in meta.get("HTTP_TRANSFER_ENCODING", "").lower()
    announced = limit + 1 if is_chunked else _announced_length(meta)
    if announced > limit and not is_chunked:
        raise RequestTooLarge(f"The body has {announced} bytes, the limit is {limit} (RUNQY_MAX_BODY_SIZE).")
    body = _read(meta["wsgi.input"], announced)
    if len(body) > limit:
        raise RequestTooLarge
    if len(body) < announced and not is_chunked:
        raise RequestInvalid(f"The body ended after {len(body)} of {announced} bytes.")
    return body


def read_members(request: HttpRequest) -> Members:
    """Return the members of the JSON object that the body is. Raises as `read_body` and `members_of` do."""
    return members_of(read_body(request))


def members_of(body: bytes) -> Members:
    """Return the members of the JSON object that a body is; of a name that stands twice the last one counts.

    Raises RequestInvalid for anything else than a JSON object in UTF-8.
    """
    if not body.strip():
        raise RequestInvalid("The body is empty; it must be a JSON object.")
    try:
        body.decode()  # the parser leaves the insides of strings unread
        return _decode_members(body)
    except UnicodeDecodeError as error:
        raise RequestInvalid(f"The body is not UTF-8 (byte {error.start}).") from error
    except RecursionError as error:
        raise RequestInvalid("The body is nested too deeply.") from error
    except msgspec.ValidationError as error:
        raise RequestInvalid("The body must be a JSON object.") from error
    except msgspec.DecodeError as error:
        raise RequestInvalid(f"The body is not JSON: {error}") from error


def values_of(members: Members) -> dict[str, Any]:
    """Return members read. Raises RequestInvalid, which names those with a number that is too large to be read."""
    values: dict[str, Any] = {}
    errors: list[str] = []
    for name, raw in members.items():
        try:
            values[name] = msgspec.json.decode(raw)
        except msgspec.ValidationError:  # that it is JSON is known
            errors.append(f"{name[:64]}: has a number out of range")
    if errors:
        raise RequestInvalid(errors=errors)
    return values


def read_struct(request: HttpRequest, kind: type[T]) -> T:
    """Return the body as a structure of msgspec's. Raises RequestInvalid, which names the member that is wrong."""
    values = values_of(read_members(request))
    try:
        return convert(values, kind)
    except msgspec.ValidationError as error:
        raise RequestInvalid(errors=[_named(str(error))]) from error


def _named(message: str) -> str:
    """Return what msgspec found wrong as `member: what`."""
    reason, _, place = message.partition(" - at `$.")
    if missing := re.fullmatch(r"Object missing required field `(.*)`", reason):
        return f"{missing[1]}: is required"
    if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", message, re.DOTALL):
        return f"{unknown[1][:64]}: is unknown"
    return f"{place.rstrip('`')}: {reason[:1].lower()}{reason[1:]}" if place else reason


def _announced_length(meta: Mapping[str, str]) -> int:
    """Return what Content-Length says."""
    text = meta.get("CONTENT_LENGTH") or "0"
    if not (text.isascii() and text.isdigit()):
        raise RequestInvalid("Content-Length is not a number.")
    return int(text)


def _read(stream: BinaryIO, size: int) -> bytes:
    """Return as many bytes of a stream as it has, up to a size.

    Past Django, which would take a body without a length for empty, and looks at each one as if it were a form.
    """
    try:
        return stream.read(size)
    except OSError as error:
        raise RequestInvalid("The body could not be read.") from error
