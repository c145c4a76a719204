"""Find the line of an error's text that says what happened."""

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

_TRACEBACK = "Traceback (most recent call last):"
_FRAME = re.compile(r'^[ |]*File "([^"\n]+)", line (\d+)', re.MULTILINE)
_UNINDENTED_LINE = re.compile(r"^[^\s|].*$", re.MULTILINE)
_ENDED_BY_ITSELF = ("the child process exited with ", "the child process could not start: ")
"""How `workers.runtime.child` begins the reason."""
_CAUSE = "cause: "
_PIP, _END_OF_BUILD = "python pip failed: ", "[end of output]"


def is_traceback(text: str) -> bool:
    """Return whether a text is a traceback of Python, or the end of one."""
    return _TRACEBACK in text or '\n  File "' in text


def find_error_line(text: str) -> str:
    """Return the last line of a traceback, else the first line: what a killed process printed follows its cause.

    An error of uv begins with what failed; its last cause is added. Of the errors of pip, the last one says it.
    """
    lines = without_hints(text)
    if text.startswith(_PIP):
        return _find_pip_error(lines)
    if not is_traceback(text):
        causes = [line.strip() for line in lines[1:] if line.lstrip().startswith(_CAUSE)]
        return ": ".join([line.strip() for line in lines[:1]] + [line.removeprefix(_CAUSE) for line in causes[-1:]])
    # The output of a build is indented in that of uv.
    indent = next((_indent(line) for line in reversed(lines) if line.lstrip().startswith(_TRACEBACK)), 0)
    found = [line for line in lines if _indent(line) == indent and _TRACEBACK not in line]
    return (found or lines)[-1].strip()


def find_start_error(text: str) -> str:
    """Return why a program did not start: the exception of its last traceback, with the file and line of its own code.

    What it printed to stdout may follow, which Python writes at the exit. Workers name the files of the code of a
    deployment relative to its folder; if no frame is in one, it is the place of the last frame.
    """
    frames = list(_FRAME.finditer(text))
    if not frames:
        return find_error_line(text)
    if not text.startswith(_ENDED_BY_ITSELF):  # it was killed, and any tracebacks before are of errors that it handled
        return text.partition("\n")[0]
    own = [frame for frame in frames if not (PurePosixPath(frame[1]).is_absolute() or frame[1].startswith("<"))]
    file, line = (own or frames)[-1].groups()
    error = _UNINDENTED_LINE.search(text, frames[-1].end())
    return f"{error[0].rstrip() if error else find_error_line(text)} ({file}, line {line})"


def shorten(text: str, max_chars: int) -> str:
    """Return the first line, which says how a process ended, and the end of a text that has more characters."""
    if len(text) <= max_chars:
        return text
    first = text.partition("\n")[0][: max_chars // 4]
    return f"{first}\n… {text[len(first) + 3 - max_chars :]}"


def without_hints(text: str) -> list[str]:
    """Return the lines that have text, without the hints of uv and git and their continuations."""
    found: list[str] = []
    is_hint = False
    for line in text.splitlines():
        is_hint = line.startswith("hint: ") or (is_hint and line[:1].isspace())
        if line.strip() and not is_hint:
            found.append(line)
    return found


def _find_pip_error(lines: Sequence[str]) -> str:
    """Return the last error of a build, else the last of pip. The first line begins with the name of the command."""
    end = next((n for n, line in enumerate(lines) if line.strip() == _END_OF_BUILD), 0)
    if end:
        return lines[end - 1].strip()
    return next((line for line in reversed(lines) if line.startswith("ERROR: ")), lines[0])


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
