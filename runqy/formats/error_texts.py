"""Find the line of an error's text that says what happened."""

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

_TRACEBACK = "Traceback (most recent call last):"
_FRAME = re.compile(r'^[ |]*File "([^"\n]+)", line (\d+)', re.MULTILINE)
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


def find_error_place(text: str) -> str:
    """Return the file and line of the last frame of a traceback in the code of a deployment; empty without a traceback.

    Workers name the files of that code relative to its folder. If none is among them, it is the last frame.
    """
    frames = _FRAME.findall(text)
    own = [(file, line) for file, line in frames if not (PurePosixPath(file).is_absolute() or file.startswith("<"))]
    return "{}, line {}".format(*(own or frames)[-1]) if frames else ""


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
