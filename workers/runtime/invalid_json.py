"""Say which value of a response is not JSON, or not UTF-8."""

import json
import math

MAX_EXAMINED_BYTES = 1 << 20
"""In longer lines the value that is invalid is not looked for: Python's objects take up to thirty times the memory."""


def describe_not_utf8(line: bytes) -> str:
    """Return which value of a response, otherwise valid JSON, is not UTF-8."""
    if len(line) > MAX_EXAMINED_BYTES:
        return "the result is not UTF-8"
    try:
        return describe_invalid(json.loads(line.decode(errors="surrogateescape")))
    except (ValueError, RecursionError):  # an integer too long, or a value nested too deeply, for Python's parser
        return "the result is not UTF-8"


def describe_invalid(response: dict[str, object]) -> str:
    """Return the first value of a response that is not JSON, and why: `result.scores[3]: NaN is not JSON; …`."""
    waiting: list[tuple[str, object]] = [("", response)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, float) and not math.isfinite(value):
            return f"{path}: {json.dumps(value)} is not JSON; return null or a text instead"
        if isinstance(value, str) and not _is_encodable(value):
            return f"{path}: the text is not UTF-8; encode it, for instance in base64"
        if isinstance(value, list):
            waiting += [(f"{path}[{index}]", item) for index, item in reversed([*enumerate(value)])]
        if isinstance(value, dict):
            waiting += [(_member_path(path, name), item) for name, item in reversed(value.items())]
            waiting += [(f"{path}, a name in it", name) for name in value if not _is_encodable(name)]
    return "the result is not valid JSON"


def _member_path(path: str, name: str) -> str:
    separator = "." if path else ""
    return f"{path}{separator}{name}" if name.isidentifier() and len(name) <= 64 else f"{path}[{name[:64]!a}]"


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # a surrogate: half a character
        return False
    return True


def is_text(data: bytes) -> bool:
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
