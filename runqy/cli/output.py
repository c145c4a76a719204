"""Print lists: a table on a terminal, tab-separated lines for programs, or JSON."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

Row = Mapping[str, object]

_GAP = 2


def print_rows(rows: Sequence[Row], columns: Sequence[str], *, empty_message: str) -> None:
    """Print columns of rows: a table on a terminal, else a line a row without a header."""
    if not sys.stdout.isatty():
        for row in rows:
            typer.echo("\t".join(format_value(row.get(column)) for column in columns))
    elif rows:
        console = Console(highlight=False)
        console.print(_table(rows, columns, console.width))
    else:
        typer.echo(empty_message)


def print_json(value: object) -> None:
    """Print a value as indented JSON."""
    typer.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def format_value(value: object) -> str:
    """Return a value on one line: of a string the last line, which of a traceback is the error."""
    if value is None:
        return ""
    if isinstance(value, str):
        lines = value.strip().splitlines()
        return lines[-1].strip() if lines else ""
    return msgspec.json.encode(value).decode()


def _table(rows: Sequence[Row], columns: Sequence[str], width: int) -> Table:
    """Return rows as a table whose last column gets the remaining width."""
    table = Table(box=None, padding=(0, _GAP, 0, 0), header_style="bold")
    left = width
    for column in columns:
        is_count = all(isinstance(row.get(column), int) and not isinstance(row.get(column), bool) for row in rows)
        widest = max(len(column), *(len(_cell(row.get(column))) for row in rows))
        used = widest if column != columns[-1] else min(widest, max(left - _GAP, len(column)))
        left -= used + _GAP
        table.add_column(
            Text(column.replace("_", " ")), justify="right" if is_count else "left", no_wrap=True, width=used
        )
    for row in rows:
        table.add_row(*(Text(_cell(row.get(column))) for column in columns))
    return table


def _cell(value: Any) -> str:
    """Return a value as shown in a table."""
    return {True: "yes", False: ""}[value] if isinstance(value, bool) else format_value(value)
