"""The part of an error text that is logged: from a failed task, or a child that did not start."""

import re
from typing import Required, TypedDict

from runqy.broker.message import clean_text
from workers.runtime.redaction import secrets

SUMMARY_MAX_CHARS = 500
_TRACEBACK = "Traceback (most recent call last):"
_GROUP_MARGIN = re.compile(r"^ *[|+] ?", re.MULTILINE)
_UNINDENTED_LINE = re.compile(r"^\S.*$", re.MULTILINE)


class ErrorMembers(TypedDict, total=False):
    """Members of a log entry. `exception` is the whole text, if it says more than `error`."""

    error: Required[str]
    exception: str


def error_members(text: str) -> ErrorMembers:
    """Return the members for an error's text. A long text is cut at its start: a traceback ends with what matters."""
    text = text.strip()
    return _members(_summarize(text), text)


def child_error_members(cause: str) -> ErrorMembers:
    """Return the members for the text of why a child ended: one line, and the child's last output."""
    reason, _, output = cause.strip().partition("\n")
    exception = _summarize(output) if _TRACEBACK in output else ""
    # An exception that other output follows was handled, and is not why the child ended.
    is_last = exception and output.endswith(exception)
    return _members(f"{reason}: {exception}" if is_last else reason, cause.strip())


def _members(summary: str, text: str) -> ErrorMembers:
    # Before the text is cut: what is left of a cut secret would not be recognized.
    summary, text = secrets.redact(summary), secrets.redact(text)
    if len(summary) > SUMMARY_MAX_CHARS:
        summary = f"{summary[:SUMMARY_MAX_CHARS]} ..."
    return {"error": summary} if summary == text else {"error": summary, "exception": clean_text(text)}


def _summarize(text: str) -> str:
    """Return a Python traceback's line with the exception's class and message, or another text's first line."""
    if text.startswith(f"+ Exception Group {_TRACEBACK}"):
        _, _, trace = _GROUP_MARGIN.sub("", text).partition(_TRACEBACK)
    else:
        trace = text.rpartition(_TRACEBACK)[2]
    first = _UNINDENTED_LINE.search(trace)
    return first[0].rstrip() if first else text.partition("\n")[0]
