"""Decode JSON into msgspec structs and dataclasses, safely on any thread.

msgspec builds the type information of a class when the class is first decoded, and stores it on the class before it is
complete. A second thread that decodes the same class meanwhile crashes the process (SIGSEGV, seen with msgspec 0.22).
Therefore decoders are created here, by one thread at a time.
"""

import re
import threading
from collections.abc import Iterable
from itertools import accumulate
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

MAX_MEMBERS = 10_000
"""Of an object with more members, only the needed ones are decoded: each costs memory, and time on the loop."""

MAX_DEPTH = 500
"""Decoders of Python 3.11 refuse deeper values than about 900, those of 3.14 no depth that occurs."""
FOR_RELEASED_CLIENTS = {"x-for-released-clients": True}
"""Marks a struct's field, as its `extra_json_schema`, that the OpenAPI schema leaves out."""

_BLOCK, _EXACT_BLOCKS = 64, 10_000

_lock = threading.Lock()
_POSITION = re.compile(r"\(byte (\d+)\)$")
_HALF = re.compile(rb"(?<!\\)(?:\\\\)*(\\u[dD][89abAB][0-9a-fA-F]{2})[^\\]{0,5}\Z")
"""The first half of a pair that should continue where decoding ended, or did so for lack of six more bytes."""
_STRING = re.compile(rb'"[^"]*+"?')
_BRACES_AS_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NOT_STRUCTURE = bytes(set(range(256)) - set(b'[]{}"'))
_STEPS = bytes.maketrans(b"[]", b"\x01\xff")
_decoders: dict[object, "msgspec.json.Decoder[Any]"] = {}


def read_json(content: bytes, kind: type[T]) -> T:
    """Return decoded JSON; as `msgspec.Raw`, its bytes. Raise msgspec.DecodeError, UnicodeDecodeError or
    RecursionError.
    """
    check_depth(content)
    value: T = _decoder(kind).decode(content)
    return value


def check_depth(content: bytes) -> None:
    """Raise RecursionError if JSON is nested deeper than MAX_DEPTH. Other faults are not found."""
    # Counting is cheap: other values are not looked at again, unless they have very many lists and objects. 30 MB of
    # such take a tenth of a second.
    if len(content) <= MAX_DEPTH or content.count(b"[") + content.count(b"{") <= MAX_DEPTH:
        return
    if b"\\" in content:  # else a quote always begins or ends a string
        content = content.replace(rb"\\", b"").replace(rb"\"", b"")
    brackets = content.translate(_BRACES_AS_BRACKETS, _NOT_STRUCTURE).replace(b'""', b"")
    if b'"' in brackets:
        brackets = _STRING.sub(b"", brackets)
    if _is_deeper(brackets, MAX_DEPTH):
        raise RecursionError(f"nested deeper than {MAX_DEPTH} levels")


def _is_deeper(brackets: bytes, limit: int) -> bool:
    """Return whether brackets are nested deeper. Where they often come near the limit, _BLOCK / 2 more are accepted."""
    depth = start = blocks = 0
    while start < len(brackets):
        # A block that is no longer than what is left to the limit cannot pass it.
        block = brackets[start : start + max(limit - depth, _BLOCK)]
        opened = block.count(b"[")
        if depth + opened > limit and blocks < _EXACT_BLOCKS:
            blocks += 1
            steps = memoryview(block.translate(_STEPS)).cast("b")
            if any(map(limit.__lt__, accumulate(steps, initial=depth))):
                return True
        depth += 2 * opened - len(block)
        if depth > limit:
            return True
        start += len(block)
    return False


def describe_error(error: Exception, content: bytes) -> str:
    """Return what is wrong with JSON. Name half of a surrogate pair, which msgspec reports as the end of the data."""
    text = str(error)
    position = _POSITION.search(text)
    half = _HALF.search(content[: int(position[1]) if position else None][-64:])
    return f"{half[1].decode()} is half of a surrogate pair" if half else text


def convert(value: object, kind: type[T]) -> T:
    """Convert a value of JSON types to another type. Raise msgspec.ValidationError."""
    _decoder(kind)
    return msgspec.convert(value, kind, str_keys=True)  # noqa: TID251 (the type is known by now)


def read_members(content: bytes, names: Iterable[str], *, may_have_others: bool) -> dict[str, msgspec.Raw]:
    """Return the members of a JSON object that have these names. Others, of which there may be millions, are not kept.

    Raise msgspec.ValidationError for another member unless `may_have_others`, and ValueError for a name with a quote, a
    backslash or a control character.
    """
    fields = {f"member{number}": name for number, name in enumerate(names)}
    members = msgspec.defstruct(
        "Members",
        [(field, msgspec.Raw | msgspec.UnsetType, msgspec.UNSET) for field in fields],
        rename=fields,
        forbid_unknown_fields=not may_have_others,
    )
    found = msgspec.structs.astuple(msgspec.json.decode(content, type=members))
    return {name: raw for name, raw in zip(fields.values(), found, strict=True) if raw is not msgspec.UNSET}


def _decoder(kind: object) -> "msgspec.json.Decoder[Any]":
    found = _decoders.get(kind)
    if found is None:
        with _lock:
            found = _decoders.setdefault(kind, msgspec.json.Decoder(kind))
    return found
