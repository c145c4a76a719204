"""Reads JSON into msgspec's structs and dataclasses, on any thread.

msgspec works out what a class consists of when it is first read, and leaves that with the class half done meanwhile:
a second thread that reads the same class at that moment crashes the process (SIGSEGV, seen with msgspec 0.22). So that
first look is taken here, by one thread at a time.
"""

import threading
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")
_looking = threading.Lock()
_decoders: dict[object, "msgspec.json.Decoder[Any]"] = {}


def read_json(content: bytes, kind: type[T]) -> T:
    """Return what a JSON text says. Raises msgspec.DecodeError, UnicodeDecodeError, RecursionError."""
    value: T = _decoder(kind).decode(content)
    return value


def convert(value: object, kind: type[T]) -> T:
    """Return a value of JSON's types as another type. Raises msgspec.ValidationError."""
    _decoder(kind)
    return msgspec.convert(value, kind)  # noqa: TID251 (here it is safe)


def _decoder(kind: object) -> "msgspec.json.Decoder[Any]":
    """Return the decoder of a type, made by whoever asks first."""
    found = _decoders.get(kind)
    if found is None:
        with _looking:
            found = _decoders.setdefault(kind, msgspec.json.Decoder(kind))
    return found
