"""What the log shows of the text in which a task, or a child that did not start, reports its failure."""

import re
from typing import Required, TypedDict

from runqy.broker.message import clean_text
from workers.runtime.redaction import secrets

SUMMARY_MAX_CHARS = 500
_TRACEBACK = "Traceback (most recent call last):"
_GROUP_MARGIN = re.compile(r"^ *[|+] ?", re.MULTILINE)
_UNINDENTED_LINE = re.compile(r"^\S.*$", re.MULTILINE)


class ErrorMembers(TypedDict, total=False):
    """Members of a log entry."""

    error: Required[str]
    """What happened."""
    exception: str
    """The text, if there is more of it."""


def error_members(text: str) -> ErrorMembers:
    """Return the members for an error's text.

    Of a text that is too long the start is missing, because the end of a traceback matters most.
    """
    text = text.strip()
    return _members(_summarize(text), text)


def child_error_members(cause: str) -> ErrorMembers:
    """Return the members for why a child ended, which is followed by its last output.

    The exception of a traceback counts if the output ends with it; others were handled.
    """
    reason, _, output = cause.strip().partition("\n")
    exception = _summarize(output) if _TRACEBACK in output else ""
    is_last = exception and output.endswith(exception)
    return _members(f"{reason}: {exception}" if is_last else reason, cause.strip())


def _members(summary: str, text: str) -> ErrorMembers:
    summary, text = secrets.redact(summary), secrets.redact(text)  # the rest of one that is cut would not be recognized
    if len(summary) > SUMMARY_MAX_CHARS:
        summary = f"{summary[:SUMMARY_MAX_CHARS]} ..."
    return {"error": summary} if summary == text else {"error": summary, "exception": clean_text(text)}


def _summarize(text: str) -> str:
    """Return the line of a Python traceback that has the exception's class and message, or a text's first line."""
    if text.startswith(f"+ Exception Group {_TRACEBACK}"):
        _, _, trace = _GROUP_MARGIN.sub("", text).partition(_TRACEBACK)
    else:
        trace = text.rpartition(_TRACEBACK)[2]
    first = _UNINDENTED_LINE.search(trace)
    return first[0].rstrip() if first else text.partition("\n")[0]
