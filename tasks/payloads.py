"""Payloads and results as bytes. Values are never decoded and encoded again, so they do not change."""

import re
from collections.abc import Mapping, Sequence

import msgspec

from queues import payload_schema
from queues.definitions import PayloadField
from runqy.core.formats.json_decoding import MAX_MEMBERS, check_depth, describe_error, read_json, read_members
from runqy.errors import PayloadInvalid

MAX_INTEGER_DIGITS = 4_300
"""The limit of Python's JSON decoder (`sys.int_info.default_max_str_digits`)."""
# A run of 4,300 digits leaves 100 of them in a sample of every 43rd byte.
_SAMPLED_EVERY = 43
_LONG_RUN_SAMPLED = re.compile(rb"[0-9]{%d}" % (MAX_INTEGER_DIGITS // _SAMPLED_EVERY))
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
"""Possessive: a repetition that can backtrack needs memory for each step, 125 times the size of a long string."""
_STRING_START = re.compile(rb'[ \t\r\n]*"')
_UNSELECTABLE = re.compile(r"[\"\\\x00-\x1f]")
"""Characters that the names given to `read_members` must not contain."""
_EMPTY_OBJECT = re.compile(rb"\{[ \t\r\n]*\}")
_LONG_INTEGER = re.compile(rb"(?<![0-9.eE+-])-?[0-9]{%d,}(?![0-9.eE])" % (MAX_INTEGER_DIGITS + 1))

_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_text = msgspec.json.Decoder(str).decode


def to_one_line(json: bytes) -> bytes:
    """Return JSON without line breaks."""
    # Children read a task as one line. Valid JSON has raw line breaks only between tokens, so no value changes.
    if b"\n" in json or b"\r" in json:
        return json.replace(b"\n", b" ").replace(b"\r", b" ")
    return json


def parse_payload(text: str) -> bytes:
    """Return JSON on one line. Raise PayloadInvalid for anything else."""
    data = text.strip().encode("utf-8", "replace")
    try:
        read_json(data, msgspec.Raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise PayloadInvalid(f"Must be JSON: {describe_error(error, data)}.") from error
    return to_one_line(data)


def format_pretty(data: bytes) -> str | None:
    """Return indented JSON with unchanged values; None if it is not JSON."""
    try:
        check_depth(data)
        return msgspec.json.format(data, indent=2).decode()
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return None


def encode_members(members: Mapping[str, msgspec.Raw]) -> bytes:
    """Return the JSON object with these members, in order, with unchanged values."""
    return b"{" + b",".join(_member(name, bytes(raw)) for name, raw in members.items()) + b"}"


def check_integers(payload: bytes) -> None:
    """Raise PayloadInvalid if an integer has more digits than Python's decoder accepts."""
    # Sampling is fast. A run of that many digits leaves a run of digits in the sample: without one there is no such
    # integer.
    if len(payload) <= MAX_INTEGER_DIGITS or not _LONG_RUN_SAMPLED.search(payload[::_SAMPLED_EVERY]):
        return
    if _LONG_INTEGER.search(_STRING.sub(b'""', payload)):
        raise PayloadInvalid(
            f"The payload has an integer of more than {MAX_INTEGER_DIGITS:,} digits, which Python does not decode; "
            "send it as a string."
        )


def add_defaults(payload: bytes, schema: Sequence[PayloadField]) -> bytes:
    """Return a payload with the schema's defaults appended. Raise PayloadInvalid, which names each wrong field."""
    check_integers(payload)
    if not schema:
        return payload
    if not payload.startswith(b"{"):
        raise PayloadInvalid(errors=["data: Must be an object, because the queue has a payload schema."])
    missing = payload_schema.complete(schema, _decode_fields(payload, schema))
    if not missing:
        return payload
    appended = b",".join(_member(name, json) for name, json in missing)
    return payload[:-1] + (b"" if _EMPTY_OBJECT.fullmatch(payload) else b",") + appended + b"}"


def as_json(data: bytes) -> msgspec.Raw | str:
    """Return JSON unchanged, and other bytes as a string."""
    try:
        data.decode()
        return read_json(data, msgspec.Raw)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return data.decode("utf-8", "replace")


def read_lines(values: Sequence[bytes]) -> list[msgspec.Raw] | None:
    """Return JSON unchanged, of which all values are decoded at once; None if one is no JSON, or has line breaks."""
    joined = b"[%b]" % b",".join(values)
    if b"\n" in joined or b"\r" in joined:
        return None
    try:
        joined.decode()
        found = read_json(joined, list[msgspec.Raw])
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return None
    return found if len(found) == len(values) else None


def decode_text(value: msgspec.Raw | str) -> str | None:
    """Return the text of a string, given the value that `as_json` returned; None for other JSON."""
    if isinstance(value, str):
        return value
    data = bytes(value)
    if not _STRING_START.match(data):
        return None
    try:
        return _decode_text(data)
    except msgspec.DecodeError:  # half of a surrogate pair
        return data.decode("utf-8", "replace")


def text_of_string(data: bytes, value: msgspec.Raw | str) -> str | None:
    """Return the JSON text of `value`, which is `as_json(data)`, if it is a string; None for other JSON, which is not
    copied.
    """
    if isinstance(value, str):
        return msgspec.json.encode(value).decode()
    return data.decode() if _STRING_START.match(data) else None


def _decode_fields(payload: bytes, schema: Sequence[PayloadField]) -> dict[str, bytes]:
    """Return the members of a payload: of a payload with very many, only those that the schema names."""
    names = {field.name for field in schema}
    # A dictionary of millions of members would take many times the memory of the payload. Every member has a colon.
    if payload.count(b":") > MAX_MEMBERS and not any(map(_UNSELECTABLE.search, names)):
        members = read_members(payload, names, may_have_others=True)
    else:
        members = _decode_members(payload)
    return {name: bytes(raw) for name, raw in members.items()}


def _member(name: str, json: bytes) -> bytes:
    return msgspec.json.encode(name) + b":" + json
