"""Reads `KEY=value` lines as people keep them in .env files; a problem names its line, never what stands there.

Comments, `export`, and values in quotes, which may go over several lines. In single quotes everything is literal, in
double quotes a backslash escapes `n`, `r`, `t`, `"`, `$` and itself. Nothing is interpolated: a secret may hold a `$`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from vaults.names import problem_of_value, problem_of_variable

LONGEST_TEXT = 1 << 20
"""Characters."""
MOST_ENTRIES = 1000

MOST_PROBLEMS = 50

_START = re.compile(r"[ \t]*(?:export[ \t]+)?(?P<key>[^=\s#'\"]+)[ \t]*=[ \t]*")
_BLANK = re.compile(r"[ \t]*(?:#[^\n]*)?(?=\n|\Z)")
_REST = re.compile(r"[^\n]*")
_COMMENT = re.compile(r"(?:^|[ \t])#")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\", "$": "$"}
_ESCAPED = re.compile(r"\\([nrt\"\\$])")
_QUOTED = {
    "'": re.compile(r"'([^']*+)'"),
    '"': re.compile(r'"((?:[^"\\]++|\\.)*+)"', re.DOTALL),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What is wrong with a line."""

    line: int
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pasted:
    """What stands in a text."""

    values: Mapping[str, str] = field(repr=False)
    lines: Mapping[str, int]
    """Where each value begins."""
    problems: tuple[Problem, ...]


def parse(text: str) -> Pasted:
    """Return the values in a text, in order, and what is wrong with it."""
    if len(text) > LONGEST_TEXT:
        return Pasted(values={}, lines={}, problems=(Problem(line=1, sentence="The text has more than 1 MiB."),))
    reader = _Reader(text.replace("\r\n", "\n").replace("\r", "\n"))
    reader.read()
    return Pasted(values=reader.values, lines=reader.lines, problems=tuple(reader.problems))


class _Reader:
    """Walks along a text, and looks at no character more than a few times, however it is made."""

    def __init__(self, text: str) -> None:
        """Begin at the first line."""
        self._text, self._at, self._line = text, 0, 1
        self.values: dict[str, str] = {}
        self.lines: dict[str, int] = {}
        self.problems: list[Problem] = []

    def read(self) -> None:
        """Read all lines."""
        while self._at < len(self._text) and len(self.problems) < MOST_PROBLEMS:
            number = self._line
            if not _BLANK.match(self._text, self._at):
                start = _START.match(self._text, self._at)
                if start is None:
                    self._note(number, "It is not KEY=value. Put a value of several lines in quotes.")
                else:
                    self._move_to(start.end())
                    self._take(number, start["key"], self._value(number))
            self._move_to(_REST.match(self._text, self._at).end() + 1)  # type: ignore[union-attr]

    def _take(self, number: int, key: str, value: str | None) -> None:
        """Keep a value, unless something is wrong with it."""
        if value is None:
            return
        if problem := problem_of_variable(key) or problem_of_value(value):
            self._note(number, f"{problem[:1].upper()}{problem[1:]}.")
        elif key in self.values:
            self._note(number, f"{key} stands in line {self.lines[key]} already.")
        elif len(self.values) == MOST_ENTRIES:
            self._note(number, f"These are more than {MOST_ENTRIES} entries.")
            self._move_to(len(self._text))
        else:
            self.values[key], self.lines[key] = value, number

    def _value(self, number: int) -> str | None:
        """Return the value that begins here; None after noting what is wrong."""
        quote = self._text[self._at : self._at + 1]
        if quote in _QUOTED:
            return self._quoted(number, quote)
        rest = _REST.match(self._text, self._at)[0]  # type: ignore[index]
        value = _COMMENT.split(rest, maxsplit=1)[0].strip(" \t")
        if "-----BEGIN" not in value:
            return value
        self._note(number, "Put a value of several lines in quotes.")
        end = self._text.find("-----END", self._at)
        self._move_to(len(self._text) if end < 0 else end)
        return None

    def _quoted(self, number: int, quote: str) -> str | None:
        """Return the value in quotes that begins here."""
        found = _QUOTED[quote].match(self._text, self._at)
        if found is None:
            self._note(number, f"The {quote} that begins here is never closed.")
            self._move_to(len(self._text))  # what follows may be the value
            return None
        self._move_to(found.end())
        if not _BLANK.match(self._text, self._at):
            self._note(number, f"Something stands behind the closing {quote}.")
            return None
        return found[1] if quote == "'" else _ESCAPED.sub(lambda escaped: _ESCAPES[escaped[1]], found[1])

    def _move_to(self, position: int) -> None:
        """Go on to a position, and count the lines up to there."""
        self._line += self._text.count("\n", self._at, position)
        self._at = position

    def _note(self, number: int, sentence: str) -> None:
        """Keep what is wrong with a line."""
        self.problems.append(Problem(line=number, sentence=sentence))
