"""Owns the bytes of payloads and results: kept as they came, never parsed and written again."""

import re
from collections.abc import Mapping, Sequence

import msgspec

from queues import payload_schema
from queues.definitions import PayloadField
from runqy.errors import PayloadInvalid

MAX_INTEGER_DIGITS = 4_300
"""What Python's own JSON reader takes (`sys.int_info.default_max_str_digits`)."""
_SAMPLED_EVERY = 43
_LONG_RUN_SAMPLED = re.compile(rb"[0-9]{%d}" % (MAX_INTEGER_DIGITS // _SAMPLED_EVERY))
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_LONG_INTEGER = re.compile(rb"(?<![0-9.eE+-])-?[0-9]{%d,}(?![0-9.eE])" % (MAX_INTEGER_DIGITS + 1))

_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_check = msgspec.json.Decoder(msgspec.Raw).decode


def one_line(json: bytes) -> bytes:
    """Return a JSON text without line breaks, which only stand between tokens; a child gets its task as a line."""
    if b"\n" in json or b"\r" in json:
        return json.replace(b"\n", b" ").replace(b"\r", b" ")
    return json


def read_object(text: str) -> bytes:
    """Return a payload that somebody wrote, on one line. Raises PayloadInvalid for what is no JSON object."""
    data = text.strip().encode("utf-8", "replace")
    try:
        _decode_members(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise PayloadInvalid(f"This is no JSON object: {error}.") from error
    return one_line(data)


def pretty(data: bytes) -> str | None:
    """Return JSON with a line for each member, its values as they stand; None for what is none."""
    try:
        return msgspec.json.format(data, indent=2).decode()
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return None


def of_members(members: Mapping[str, msgspec.Raw]) -> bytes:
    """Return the JSON object with these members, in order, each value as it stands."""
    return b"{" + b",".join(_member(name, bytes(raw)) for name, raw in members.items()) + b"}"


def check_integers(payload: bytes) -> None:
    """Raise PayloadInvalid for an integer of more digits than Python reads."""
    # A run of that many digits has digits in so many places of the sample: others need no closer look.
    if len(payload) <= MAX_INTEGER_DIGITS or not _LONG_RUN_SAMPLED.search(payload[::_SAMPLED_EVERY]):
        return
    if _LONG_INTEGER.search(_STRING.sub(b'""', payload)):
        raise PayloadInvalid(
            f"The payload has an integer of more than {MAX_INTEGER_DIGITS:,} digits, which Python does not read; "
            "send it as a string."
        )


def completed(payload: bytes, schema: Sequence[PayloadField]) -> bytes:
    """Return a payload with the schema's defaults appended. Raises PayloadInvalid, naming each wrong field."""
    check_integers(payload)
    if not schema:
        return payload
    members = {name: bytes(raw) for name, raw in _decode_members(payload).items()}
    missing = payload_schema.complete(schema, members)
    if not missing:
        return payload
    appended = b",".join(_member(name, json) for name, json in missing)
    return payload[:-1] + (b"," if members else b"") + appended + b"}"


def as_json(data: bytes) -> msgspec.Raw | str:
    """Return bytes as the JSON they are, and as a string where they are none."""
    try:
        data.decode()
        return _check(data)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return data.decode("utf-8", "replace")


def _member(name: str, json: bytes) -> bytes:
    return msgspec.json.encode(name) + b":" + json
