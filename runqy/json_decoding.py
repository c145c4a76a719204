"""Decode JSON into msgspec structs and dataclasses, safely on any thread.

msgspec builds the type information of a class when it is first decoded, and stores it on the class before it is
complete: a second thread that decodes the same class meanwhile crashes the process (SIGSEGV, seen with msgspec 0.22).
So decoders are created here, by one thread at a time.
"""

import threading
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")
_lock = threading.Lock()
_decoders: dict[object, "msgspec.json.Decoder[Any]"] = {}


def read_json(content: bytes, kind: type[T]) -> T:
    """Return decoded JSON. Raise msgspec.DecodeError, UnicodeDecodeError, RecursionError."""
    value: T = _decoder(kind).decode(content)
    return value


def convert(value: object, kind: type[T]) -> T:
    """Convert a value of JSON types to another type. Raise msgspec.ValidationError."""
    _decoder(kind)
    return msgspec.convert(value, kind)  # noqa: TID251 (the type is known by now)


def _decoder(kind: object) -> "msgspec.json.Decoder[Any]":
    """Return the decoder of a type, created on first use."""
    found = _decoders.get(kind)
    if found is None:
        with _lock:
            found = _decoders.setdefault(kind, msgspec.json.Decoder(kind))
    return found
