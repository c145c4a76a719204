"""Encode results as JSON. A value that cannot be encoded is named by its path: `result.scores[3]: set`."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, cast

from runqy_sdk.cancellation import Cancellation
from runqy_sdk.errors import ResultInvalid

MAX_ARRAY_ITEMS = 100_000
"""The largest numpy array that becomes a list. As JSON a number takes about 20 bytes."""


def encode_result(value: Any, name: str = "result") -> str:
    """Return a result as JSON on one line. Raise ResultInvalid, whose text begins with `name`.

    Besides JSON's own types: numpy scalars, and arrays of at most MAX_ARRAY_ITEMS; dates, times, UUIDs and Decimals as
    texts; bytes in base64.
    """
    try:
        if value is None or type(value) is int:  # the encoder takes ten times as long
            return "null" if value is None else str(value)
        return _encode(value)
    except RecursionError as error:
        raise ResultInvalid(f"{name}: it is nested too deeply, or contains itself") from error
    except (TypeError, ValueError) as error:
        raise ResultInvalid(_find_invalid(name, value, frozenset()) or f"{name}: {error}") from error


def _convert(value: Any) -> Any:
    """Return a value as JSON's types. Raise TypeError with a reason if that is not possible."""
    # A third of the time that importing this package would take, and few results need them.
    import base64  # noqa: PLC0415
    import datetime  # noqa: PLC0415
    import decimal  # noqa: PLC0415
    import uuid  # noqa: PLC0415

    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (uuid.UUID, decimal.Decimal)):
        return str(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(cast("bytes", value)).decode()
    if isinstance(value, Cancellation):
        return bool(value)
    # numpy is recognized by what its values have: importing it would make it a dependency.
    if hasattr(value, "dtype") and hasattr(value, "tolist"):
        if getattr(value, "size", 1) > MAX_ARRAY_ITEMS:
            raise TypeError(
                f"has {value.size:,} items, and at most {MAX_ARRAY_ITEMS:,} are encoded; "
                "store it elsewhere and return its location"
            )
        return value.tolist()
    raise TypeError("is not JSON; return numbers, texts, lists and dicts")


# One encoder: `json.dumps` makes one for each call that has options.
_encode = json.JSONEncoder(default=_convert, allow_nan=False, separators=(",", ":")).encode


def _find_invalid(path: str, value: Any, parents: frozenset[int]) -> str:  # noqa: PLR0911 (a case for each type)
    """Return the first value that cannot be encoded, by its path, and why; empty if there is none."""
    if value is None or isinstance(value, (str, int)):
        return ""
    if isinstance(value, float):
        return "" if math.isfinite(value) else f"{path}: {value} is not JSON; return None or a text instead"
    if id(value) in parents:
        return f"{path}: {_type_name(value)} contains itself"
    parents |= {id(value)}
    if isinstance(value, (list, tuple)):
        items = cast("Sequence[Any]", value)
        return next(filter(None, (_find_invalid(f"{path}[{i}]", item, parents) for i, item in enumerate(items))), "")
    if isinstance(value, dict):
        for name, item in cast("dict[object, object]", value).items():
            if not (name is None or isinstance(name, (str, int, float))):
                return f"{path}: the key {name!r:.60} is of type {_type_name(name)}; keys are texts"
            if found := _find_invalid(_member_path(path, name), item, parents):
                return found
        return ""
    try:
        return _find_invalid(path, _convert(value), parents)
    except TypeError as error:
        return f"{path}: {_type_name(value)} {error}"


def _member_path(path: str, name: object) -> str:
    return f"{path}.{name}" if isinstance(name, str) and name.isidentifier() else f"{path}[{name!r:.60}]"


def _type_name(value: object) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
