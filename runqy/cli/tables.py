"""Prints lists: a table for people, lines with tabs for programs, JSON on demand."""

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


def show_rows(rows: Sequence[Row], columns: Sequence[str], *, nothing: str) -> None:
    """Print some columns of rows; programs get a line for each row, without a head."""
    if not sys.stdout.isatty():
        for row in rows:
            typer.echo("\t".join(spell(row.get(column)) for column in columns))
    elif rows:
        console = Console(highlight=False)
        console.print(_table(rows, columns, console.width))
    else:
        typer.echo(nothing)


def show_json(answer: object) -> None:
    """Print JSON that is easy to read."""
    typer.echo(msgspec.json.format(msgspec.json.encode(answer), indent=2).decode())


def spell(value: object) -> str:
    """Return a value on one line: of a text the last line, which of a traceback is the error."""
    if value is None:
        return ""
    if isinstance(value, str):
        lines = value.strip().splitlines()
        return lines[-1].strip() if lines else ""
    return msgspec.json.encode(value).decode()


def _table(rows: Sequence[Row], columns: Sequence[str], width: int) -> Table:
    """Return rows as a table in which the last column takes what the others leave."""
    table = Table(box=None, padding=(0, _GAP, 0, 0), header_style="bold")
    left = width
    for column in columns:
        is_count = all(isinstance(row.get(column), int) and not isinstance(row.get(column), bool) for row in rows)
        widest = max(len(column), *(len(_word(row.get(column))) for row in rows))
        taken = widest if column != columns[-1] else min(widest, max(left - _GAP, len(column)))
        left -= taken + _GAP
        table.add_column(
            Text(column.replace("_", " ")), justify="right" if is_count else "left", no_wrap=True, width=taken
        )
    for row in rows:
        table.add_row(*(Text(_word(row.get(column))) for column in columns))
    return table


def _word(value: Any) -> str:
    """Return a value as a person reads it."""
    return {True: "yes", False: ""}[value] if isinstance(value, bool) else spell(value)
