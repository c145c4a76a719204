"""Tables for a terminal: columns that do not fit are on lines below, times are relative, states have colours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from runqy.cli.values import clean, describe_time, format_value, parse_time

Row = Mapping[str, object]

_GAP = 2
_INDENT = 4
_TEXT_MIN = 30
"""A column of texts that would become narrower gets a line of its own."""
_SHOWN_MAX = 500
"""How many characters of a value a table shows. Results may be long."""
_STATE_COLUMNS = ("state", "status", "outcome", "level", "event")
_COLOURS = {
    "green": ("completed", "ready", "ok", "valid", "resolved"),
    "cyan": ("active", "running", "starting", "deploying"),
    "yellow": ("retry", "retried", "warning", "draining", "degraded", "expired", "canceled", "stale", "open"),
    "red": ("archived", "failed", "critical", "lost", "timed_out", "disconnected", "failing", "invalid", "revoked"),
}
_STYLES = {word: colour for colour, words in _COLOURS.items() for word in words}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Column:
    """A column, and its width on one of the lines of a row."""

    index: int
    width: int
    is_text: bool
    """Whether its cells are folded at `width`."""


def render_table(rows: Sequence[Row], columns: Sequence[str], *, is_wide: bool = False) -> str:
    """Return a header and rows, with the colours of the terminal.

    Columns that do not fit beside the first ones are on indented lines below them. Columns without any value are left
    out.
    """
    console = Console(highlight=False)
    filled = [name for name in columns if any(_cell(row.get(name), is_wide=is_wide) for row in rows)]
    columns = filled or columns
    headers = [column.replace("_", " ") for column in columns]
    table = [[_cell(row.get(column), is_wide=is_wide) for column in columns] for row in rows]
    counts = [all(type(row.get(column)) is int for row in rows) for column in columns]
    layout = _arrange(headers, table, console.width)
    with console.capture() as capture:
        for cells, is_header in ((headers, True), *((cells, False) for cells in table)):
            for number, line in enumerate(layout):
                folded = []
                for column in line:
                    cell = cells[column.index]
                    style = "bold" if is_header else _style(columns[column.index], cell)
                    folded.append(_fold(console, Text(cell, style=style), column, is_right=counts[column.index]))
                for parts in zip_longest(*folded):
                    text = Text(" " * _INDENT if number else "")
                    for part, column in zip(parts, line, strict=True):
                        text.append_text(part or Text(" " * column.width)).append(" " * _GAP)
                    text.rstrip()
                    if text or not number:
                        console.print(text, soft_wrap=True)
    return capture.get()


def print_members(item: Row, members: Sequence[str], *, is_wide: bool = False) -> None:
    """Print a line for each member that is not empty: its name and its value."""
    console = Console(highlight=False)
    shown = [member for member in members if item.get(member) not in (None, "", [], {})]
    width = max(map(len, shown), default=0) + 1
    for member in shown:
        value = item[member]
        time = parse_time(value)
        text = value if isinstance(value, str) else format_value(value)
        if time:
            text = f"{describe_time(time, is_exact=True)} ({describe_time(time)})"
        elif isinstance(value, bool):
            text = "yes" if value else "no"
        name = f"{member.replace('_', ' ') + ':':{width}} "
        console.print(Text.assemble((name, "bold"), (clean(text), _style(member, text))), soft_wrap=True)


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


def _style(column: str, text: str) -> str:
    return _STYLES.get(text, "") if column in _STATE_COLUMNS else ""


def _cell(value: Any, *, is_wide: bool) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    if time := parse_time(value):
        return describe_time(time, is_exact=is_wide)
    text = clean(format_value(value))
    return text if is_wide or len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}… ({len(text):,} characters)"
