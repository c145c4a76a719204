"""Show a list again and again: a screen that is redrawn on a terminal, else a line for each change."""

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from runqy.cli.commands import Session
from runqy.cli.errors import ExitCode, ServerError
from runqy.cli.output import Item, Listing, echo
from runqy.cli.values import clean, encode_json, parse_duration


def _parse_interval(value: str | float) -> float:
    seconds = parse_duration(value)
    if seconds < _MIN_INTERVAL_S:
        raise typer.BadParameter(f"Must be at least {_MIN_INTERVAL_S} s.")
    return seconds


_MIN_INTERVAL_S = 0.5
Interval = Annotated[
    float,
    typer.Option(
        "--interval",
        "-i",
        metavar="DURATION",
        parser=_parse_interval,
        help="Time between two readings: seconds, or a duration such as 1m.",
    ),
]

_HOME, _CLEAR_LINE, _CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"


def watch(session: Session, listing: Listing, read: Callable[[], Sequence[Item]], *, interval_s: float) -> None:
    """Show what `read` returns until Ctrl-C. A server that is unavailable for a while does not end it.

    A document is one line of JSON for each object that changed. Raise ServerError if the first reading fails.
    """
    items = read()
    known: dict[str, tuple[str, ...]] = {}
    problem = ""
    while True:
        if session.out.is_table:
            _draw(f"Every {interval_s:g} s, {time.strftime('%H:%M:%S')}. {problem}", session.out.table(listing, items))
        elif not problem:
            _print_changes(session, listing, items, known)
        time.sleep(interval_s)
        try:
            items, problem = read(), ""
        except ServerError as error:
            if error.exit_code != ExitCode.UNAVAILABLE:
                raise
            if not session.out.is_table and not problem:
                session.out.note(str(error))
            problem = str(error)


def _draw(title: str, table: str) -> None:
    """Replace the screen. Lines that do not fit are left out at the end, where they would scroll the rest away."""
    columns, height = shutil.get_terminal_size()
    lines = [clean(title.strip()[:columns]), "", *table.splitlines()]
    if len(lines) > height - 1:
        lines = [*lines[: height - 2], f"… {len(lines) - height + 2} more lines"]
    sys.stdout.write(_HOME + "".join(f"{line}{_CLEAR_LINE}\n" for line in lines) + _CLEAR_BELOW)
    sys.stdout.flush()


def _print_changes(
    session: Session, listing: Listing, items: Sequence[Item], known: dict[str, tuple[str, ...]]
) -> None:
    name = listing.name or listing.columns[0]
    changed = []
    for item, cells in zip(items, session.out.cells(listing, items), strict=True):
        key = str((item | listing.add_columns(item)).get(name))
        if known.get(key) != cells:
            changed.append(item)
            known[key] = cells
    for item in changed if session.out.is_document else ():
        echo(encode_json(item))
    if changed and not session.out.is_document:
        session.out.listing(listing, changed)
