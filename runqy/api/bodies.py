"""Reads the bodies of requests: whole, within the size limit, as JSON whose values keep their bytes."""

from collections.abc import Mapping

import msgspec
from django.conf import settings
from django.http import HttpRequest, UnreadablePostError

from runqy.errors import EncodingUnsupported, RequestInvalid, RequestTooLarge

Members = dict[str, msgspec.Raw]

_decode_members = msgspec.json.Decoder(Members).decode


def read_body(request: HttpRequest) -> bytes:
    """Return the body. Raises RequestTooLarge, EncodingUnsupported, RequestInvalid when it ended too early."""
    meta = request.META
    if meta.get("HTTP_CONTENT_ENCODING", "identity").lower() != "identity":
        raise EncodingUnsupported
    limit: int = settings.RUNQY_MAX_BODY_SIZE
    if "chunked" in meta.get("HTTP_TRANSFER_ENCODING", "").lower():
        return _read_chunks(request, limit)
    announced = _announced_length(meta)
    if announced > limit:
        raise RequestTooLarge(f"The body has {announced} bytes, the limit is {limit} (RUNQY_MAX_BODY_SIZE).")
    try:
        body = request.body
    except UnreadablePostError as error:
        raise RequestInvalid("The body could not be read.") from error
    if len(body) < announced:
        raise RequestInvalid(f"The body ended after {len(body)} of {announced} bytes.")
    return body


def read_members(request: HttpRequest) -> Members:
    """Return the members of the JSON object that the body is; of a name that stands twice the last one counts.

    Raises RequestInvalid for anything else than a JSON object in UTF-8.
    """
    body = read_body(request)
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


def _announced_length(meta: Mapping[str, str]) -> int:
    """Return what Content-Length says."""
    text = meta.get("CONTENT_LENGTH") or "0"
    if not (text.isascii() and text.isdigit()):
        raise RequestInvalid("Content-Length is not a number.")
    return int(text)


def _read_chunks(request: HttpRequest, limit: int) -> bytes:
    """Return a body of unknown length, which Django itself takes for empty."""
    try:
        body: bytes = request.META["wsgi.input"].read(limit + 1)
    except OSError as error:
        raise RequestInvalid("The body could not be read.") from error
    if len(body) > limit:
        raise RequestTooLarge
    return body
