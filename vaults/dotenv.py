"""Parse and format `KEY=value` lines as in .env files. Errors contain the line number, never the text.

Comments, `export` and quoted values of several lines are supported. Single quotes are literal; in double quotes a
backslash escapes `n`, `r`, `t`, `"`, `$` and itself. Nothing is interpolated: a secret may contain a `$`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from vaults.entry_rules import value_error, variable_name_error

TEXT_MAX_LENGTH = 1 << 20  # characters
ENTRIES_MAX = 1000

ERRORS_MAX = 50

_START = re.compile(r"[ \t]*(?:export[ \t]+)?(?P<key>[^=\s#'\"]+)[ \t]*=[ \t]*")
_BLANK = re.compile(r"[ \t]*(?:#[^\n]*)?(?=\n|\Z)")
_REST = re.compile(r"[^\n]*")
_COMMENT = re.compile(r"(?:^|[ \t])#")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\", "$": "$"}
_TO_ESCAPE = {character: f"\\{escape}" for escape, character in _ESCAPES.items()}
_ESCAPED = re.compile(r"\\([nrt\"\\$])")
_QUOTED = {
    "'": re.compile(r"'([^']*+)'"),
    '"': re.compile(r'"((?:[^"\\]++|\\.)*+)"', re.DOTALL),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LineError:
    line: int
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedEnv:
    """The values and errors of a text."""

    values: Mapping[str, str] = field(repr=False)
    lines: Mapping[str, int]
    """The line where each value begins."""
    errors: tuple[LineError, ...]


def parse_env(text: str) -> ParsedEnv:
    if len(text) > TEXT_MAX_LENGTH:
        return ParsedEnv(values={}, lines={}, errors=(LineError(line=1, message="The text has more than 1 MiB."),))
    reader = _DotenvReader(text.replace("\r\n", "\n").replace("\r", "\n"))
    reader.read()
    return ParsedEnv(values=reader.values, lines=reader.lines, errors=tuple(reader.errors))


def format_line(key: str, value: str) -> str:
    """Return the line from which `parse_env` reads the value; several lines for a value with line breaks."""
    if "'" not in value and "\r" not in value:  # in single quotes \r\n would be read as \n
        return f"{key}='{value}'\n"
    escaped = "".join(_TO_ESCAPE.get(character, character) for character in value)
    return f'{key}="{escaped}"\n'


class _DotenvReader:
    """Reads a text in linear time."""

    def __init__(self, text: str) -> None:
        self._text, self._at, self._line = text, 0, 1
        self.values: dict[str, str] = {}
        self.lines: dict[str, int] = {}
        self.errors: list[LineError] = []

    def read(self) -> None:
        while self._at < len(self._text) and len(self.errors) < ERRORS_MAX:
            number = self._line
            if not _BLANK.match(self._text, self._at):
                start = _START.match(self._text, self._at)
                if start is None:
                    self._add_error(number, "Must be KEY=value. Quote a value of several lines.")
                else:
                    self._move_to(start.end())
                    self._take(number, start["key"], self._value(number))
            self._move_to(_REST.match(self._text, self._at).end() + 1)  # type: ignore[union-attr]

    def _take(self, number: int, key: str, value: str | None) -> None:
        if value is None:
            return
        if message := variable_name_error(key) or value_error(value):
            self._add_error(number, message)
        elif key in self.values:
            self._add_error(number, f"{key} is already set in line {self.lines[key]}.")
        elif len(self.values) == ENTRIES_MAX:
            self._add_error(number, f"There are more than {ENTRIES_MAX} entries.")
            self._move_to(len(self._text))
        else:
            self.values[key], self.lines[key] = value, number

    def _value(self, number: int) -> str | None:
        """Return the value that begins here; None after an error was added."""
        quote = self._text[self._at : self._at + 1]
        if quote in _QUOTED:
            return self._quoted(number, quote)
        rest = _REST.match(self._text, self._at)[0]  # type: ignore[index]
        value = _COMMENT.split(rest, maxsplit=1)[0].strip(" \t")
        if "-----BEGIN" not in value:
            return value
        self._add_error(number, "Quote a value of several lines.")
        end = self._text.find("-----END", self._at)
        self._move_to(len(self._text) if end < 0 else end)
        return None

    def _quoted(self, number: int, quote: str) -> str | None:
        found = _QUOTED[quote].match(self._text, self._at)
        if found is None:
            self._add_error(number, f"The {quote} is not closed.")
            self._move_to(len(self._text))  # the rest may belong to the value
            return None
        self._move_to(found.end())
        if not _BLANK.match(self._text, self._at):
            self._add_error(number, f"Unexpected text after the closing {quote}.")
            return None
        return found[1] if quote == "'" else _ESCAPED.sub(lambda escaped: _ESCAPES[escaped[1]], found[1])

    def _move_to(self, position: int) -> None:
        self._line += self._text.count("\n", self._at, position)
        self._at = position

    def _add_error(self, number: int, message: str) -> None:
        self.errors.append(LineError(line=number, message=message))
