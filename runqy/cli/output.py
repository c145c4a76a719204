"""Print lists: a table on a terminal, tab-separated lines for programs, or JSON."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import msgspec
import typer
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

Row = Mapping[str, object]

_GAP = 2
_INDENT = 4
_TEXT_MIN = 30
"""A column of texts that would become narrower gets a line of its own."""


_SHOWN_MAX = 500
"""How many characters of a value a table shows. Results may be long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Column:
    """A column, and its width on one of the lines of a row."""

    index: int
    width: int
    is_text: bool
    """Whether its cells are folded at `width`."""


def print_rows(
    items: Sequence[dict[str, Any]],
    columns: Sequence[str],
    *,
    empty_message: str,
    as_json: bool = False,
    add_columns: Callable[[dict[str, Any]], dict[str, Any]] = lambda item: item,
) -> None:
    """Print columns of items: a table on a terminal, else one line for each item and no header; or all as JSON.

    `add_columns` returns columns that an item does not have, or has in another form.
    """
    rows = [item | add_columns(item) for item in items]
    if as_json:
        print_json(items)
    elif not sys.stdout.isatty():
        for row in rows:
            typer.echo("\t".join(format_value(row.get(column)) for column in columns))
    elif rows:
        _print_table(Console(highlight=False), rows, columns)
    else:
        typer.echo(empty_message)


def print_json(value: object) -> None:
    """Print a value as indented JSON."""
    typer.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def format_value(value: object) -> str:
    """Return a value on one line. Of a string it is the last line, which in a traceback is the error."""
    if value is None:
        return ""
    if isinstance(value, str):
        lines = value.strip().splitlines()
        return lines[-1].strip() if lines else ""
    return msgspec.json.encode(value).decode()


def _print_table(console: Console, rows: Sequence[Row], columns: Sequence[str]) -> None:
    """Print a header and rows. Columns that do not fit beside the first ones are on indented lines below them."""
    headers = [column.replace("_", " ") for column in columns]
    table = [[_cell(row.get(column)) for column in columns] for row in rows]
    counts = [all(type(row.get(column)) is int for row in rows) for column in columns]
    layout = _arrange(headers, table, console.width)
    for cells, style in ((headers, "bold"), *((cells, "") for cells in table)):
        for number, line in enumerate(layout):
            folded = [
                _fold(console, Text(cells[column.index], style=style), column, is_right=counts[column.index])
                for column in line
            ]
            for parts in zip_longest(*folded):
                text = Text(" " * _INDENT if number else "")
                for part, column in zip(parts, line, strict=True):
                    text.append_text(part or Text(" " * column.width)).append(" " * _GAP)
                text.rstrip()
                if text or not number:
                    console.print(text, soft_wrap=True)


def _arrange(headers: Sequence[str], table: Sequence[Sequence[str]], width: int) -> list[list[_Column]]:
    """Distribute the columns over as few lines as possible.

    A column of texts may be narrower than its texts, which are folded. Other values, such as ids, are never folded. A
    column that is wider than the terminal gets a line of its own.
    """
    lines: list[list[_Column]] = [[]]
    left = width
    for index, (header, *cells) in enumerate(zip(headers, *table, strict=True)):
        widest = max(map(cell_len, (header, *cells)))
        is_text = index > 0 and any(" " in cell for cell in cells)
        if lines[-1] and left < (min(widest, _TEXT_MIN) if is_text else widest):
            lines.append([])
            left = width - _INDENT
        used = min(widest, max(left, 1)) if is_text else widest
        lines[-1].append(_Column(index=index, width=used, is_text=is_text))
        left -= used + _GAP
    return lines


def _fold(console: Console, text: Text, column: _Column, *, is_right: bool) -> list[Text]:
    """Return the lines of a cell, padded to the width of its column."""
    lines = list(text.wrap(console, column.width)) if column.is_text else [text]
    for line in lines:
        missing = max(column.width - line.cell_len, 0)
        line.pad_left(missing) if is_right else line.pad_right(missing)
    return lines


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    text = format_value(value)
    return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}… ({len(text):,} characters)"
