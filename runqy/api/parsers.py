"""Parsers of requests: JSON bodies within the size limit, and the Idempotency-Key header."""

import hashlib
import re
from collections.abc import Mapping
from typing import IO, Any, TypeAlias

import msgspec
from django.conf import settings
from rest_framework.parsers import BaseParser
from rest_framework.request import Request

from runqy.broker.tasks.enqueue import IdempotencyKey
from runqy.core.api_keys import Identity
from runqy.core.formats.json_decoding import MAX_MEMBERS, check_depth, describe_error
from runqy.errors import EncodingUnsupported, RequestInvalid, RequestTooLarge

Members: TypeAlias = dict[str, msgspec.Raw]
"""The members of a JSON object, each value with the bytes that the client sent."""

_decode_members = msgspec.json.Decoder(Members).decode


class _CountedName(str):
    """A member's name, as a type of its own so that msgspec calls `dec_hook` for each name."""

    __slots__ = ()


class JSONParser(BaseParser):
    """Parse a JSON object into Python values."""

    media_type = "application/json"

    def parse(
        self, stream: IO[bytes], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return the members. Raise RequestInvalid, RequestTooLarge, EncodingUnsupported."""
        return decode_values(decode_members(read_body(stream, (parser_context or {})["request"].META)))


class RawJSONParser(BaseParser):
    """Read a body without parsing it, for fields whose values keep the client's bytes."""

    media_type = "application/json"

    def parse(  # type: ignore[override]  # DRF documents that a parser may return any value
        self, stream: IO[bytes], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> bytes:
        """Return the body. Raise RequestInvalid, RequestTooLarge, EncodingUnsupported."""
        return read_body(stream, (parser_context or {})["request"].META)


def refuse_members(request: Request) -> None:
    """Raise RequestInvalid for a body with members. Ignoring them could apply an action to more than was meant."""
    if request.data:
        detail = "This request accepts query parameters only, no body."
        raise RequestInvalid(errors=[f"{name}: {detail}" for name in sorted(request.data)[:20]])


def read_body(stream: IO[bytes], meta: Mapping[str, Any]) -> bytes:
    """Return a whole body. Raise RequestInvalid if it is cut short, RequestTooLarge, EncodingUnsupported."""
    check_encoding(meta.get("HTTP_CONTENT_ENCODING", ""))
    length = int(meta.get("CONTENT_LENGTH") or 0)
    check_size(length)
    try:
        body = stream.read(length)
    except OSError as error:
        raise RequestInvalid("The body could not be read.") from error
    if len(body) < length:
        raise RequestInvalid(f"The body ended after {len(body)} of {length} bytes.")
    return body


def check_encoding(content_encoding: str) -> None:
    """Raise EncodingUnsupported for a compressed body."""
    if content_encoding.lower() not in ("", "identity"):
        raise EncodingUnsupported


def check_size(length: int) -> None:
    """Raise RequestTooLarge for a body beyond RUNQY_MAX_BODY_SIZE."""
    limit: int = settings.RUNQY_MAX_BODY_SIZE
    if length > limit:
        raise RequestTooLarge(
            f"The body has {length} bytes, more than the {limit} bytes (RUNQY_MAX_BODY_SIZE). Store large data "
            "elsewhere and send its location, or raise the limit."
        )


def decode_members(body: bytes) -> Members:
    """Return the members of a JSON object. If a name appears twice, the last member counts.

    Raise RequestInvalid for anything but a JSON object in UTF-8.
    """
    if not body.strip():
        raise RequestInvalid("The body is empty; it must be a JSON object.")
    try:
        body.decode()  # msgspec does not validate the UTF-8 of values that it skips
        check_depth(body)
        # An object has a colon for each member, so that only bodies with many are counted.
        if body.count(b":") > MAX_MEMBERS:
            _check_member_count(body)
        return _decode_members(body)
    except UnicodeDecodeError as error:
        raise RequestInvalid(f"The body is not UTF-8 (byte {error.start}).") from error
    except RecursionError as error:
        raise RequestInvalid(f"The body is {error}.") from error
    except msgspec.ValidationError as error:
        raise RequestInvalid("The body must be a JSON object.") from error
    except msgspec.DecodeError as error:
        raise RequestInvalid(f"The body is not valid JSON: {describe_error(error, body)}") from error


def _check_member_count(body: bytes) -> None:
    """Raise RequestInvalid for an object with more than MAX_MEMBERS members, without decoding the others."""
    count = 0

    def count_name(_: type, name: str) -> _CountedName:
        nonlocal count
        count += 1
        if count > MAX_MEMBERS:
            raise RequestInvalid(f"The body has more than {MAX_MEMBERS:,} members; put the payload into data.")
        return _CountedName(name)

    msgspec.json.decode(body, type=dict[_CountedName, msgspec.Raw], dec_hook=count_name)


def decode_values(members: Members) -> dict[str, Any]:
    """Return members as Python values. Raise RequestInvalid with the names of members with a number out of range."""
    values: dict[str, Any] = {}
    errors: list[str] = []
    for name, raw in members.items():
        try:
            values[name] = msgspec.json.decode(raw)
        except msgspec.ValidationError:
            errors.append(f"{name[:64]}: a number is out of range.")
    if errors:
        raise RequestInvalid(errors=errors)
    return values


_IDEMPOTENCY_KEY = re.compile(r"[!-~]{1,255}")


def parse_idempotency_key(key: str | None, *, identity: Identity, kind: str, body: bytes) -> IdempotencyKey | None:
    """Return a request's idempotency key, scoped to its client; None without one.

    `kind` names the operation, so that a path and its alias are the same request. Raise RequestInvalid.
    """
    if key is None:
        return None
    if not _IDEMPOTENCY_KEY.fullmatch(key):
        raise RequestInvalid(errors=["Idempotency-Key: Must be 1 to 255 visible ASCII characters."])
    scope = _digest(identity.key_id or identity.name, key.encode())
    return IdempotencyKey(scope=scope, fingerprint=_digest(kind, body))


def _digest(name: str, content: bytes) -> str:
    """Return the digest that is stored in Redis instead of a long or private value."""
    return hashlib.sha256(name.encode() + b"\0" + content).hexdigest()[:32]
