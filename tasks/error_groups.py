"""Parse the text of an error, and find the group of errors that it belongs to."""

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache

CLASS_MAX_LENGTH = 200
MESSAGE_MAX_LENGTH = 1000

_TRACEBACK = "Traceback (most recent call last):"
_CLASS = re.compile(r"([A-Za-z_][\w.]{0,199}?)(?:: |:$|$)")
_VARIABLE_PARTS = (
    (re.compile(r"""(["'`])(?:(?!\1).){0,500}\1"""), "<text>"),
    (re.compile(r"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b"), "<id>"),
    (re.compile(r"\b\w+://\S+"), "<url>"),
    (re.compile(r"(?<![\w<])(?:[A-Za-z]:)?(?:[\\/][\w.@+-]+){2,}[\\/]?"), "<path>"),
    (re.compile(r"\b0x[0-9a-fA-F]+\b"), "<id>"),
    (re.compile(r"\b(?=[0-9a-fA-F]*\d)[0-9a-fA-F]{8,}\b"), "<id>"),
    (re.compile(r"\d+(?:[.,:]\d+)*"), "<n>"),
    (re.compile(r"\s+"), " "),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedError:
    """The parts of an error's text."""

    error_class: str
    """Empty if the text does not begin with a class."""
    message: str
    traceback: str
    """The whole text if it has a traceback, otherwise empty."""
    fingerprint: str


@lru_cache(maxsize=256)
def parse_error(text: str) -> ParsedError | None:
    """Return the parts of an error's text; None if it is empty."""
    text = text.strip()
    if not text:
        return None
    is_traceback = _TRACEBACK in text or '\n  File "' in text
    head = _last_unindented_line(text) if is_traceback else text
    match = _CLASS.match(head)
    error_class, message = "", head
    if match and _is_class_name(match[1]):
        error_class, message = match[1], head[match.end() :]
    return ParsedError(
        error_class=error_class[:CLASS_MAX_LENGTH],
        message=message[:MESSAGE_MAX_LENGTH],
        traceback=text if is_traceback else "",
        fingerprint=fingerprint(error_class, message),
    )


def fingerprint(error_class: str, message: str) -> str:
    """Return the same text for errors that differ only in numbers, ids, quoted texts, URLs and paths."""
    normalized = f"{error_class}\n{normalize(message)}"
    return hashlib.blake2b(normalized.encode("utf-8", "replace"), digest_size=16).hexdigest()


def normalize(message: str) -> str:
    """Return a message with its variable parts replaced by placeholders."""
    message = message[:MESSAGE_MAX_LENGTH]
    for pattern, replacement in _VARIABLE_PARTS:
        message = pattern.sub(replacement, message)
    return message.strip()


def _last_unindented_line(text: str) -> str:
    """Return the line of a traceback that has the error."""
    lines = [line for line in text.splitlines() if line.strip() and not line[0].isspace() and _TRACEBACK not in line]
    return lines[-1] if lines else text


def _is_class_name(name: str) -> bool:
    """Return whether a word looks like the name of an exception: `ValueError`, `requests.exceptions.Timeout`."""
    last = name.rpartition(".")[2]
    return "." in name or (last[:1].isupper() and any(letter.islower() for letter in last[1:]))
