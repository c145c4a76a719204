"""Shows how far a long command is: a bar on a terminal, a line for each tenth anywhere else."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from django.core.management.base import OutputWrapper
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vaults.rotation import Step

T = TypeVar("T")


def shown(steps: Iterable[Step], *, total: int, out: OutputWrapper) -> Iterator[Step]:
    """Give steps, and show how many of all entries have been seen."""
    return _as_bar(steps, total) if out.isatty() else _as_lines(steps, total, out)


def _as_bar(steps: Iterable[Step], total: int) -> Iterator[Step]:
    """Draw a bar, which is gone once all is done."""
    columns = (TextColumn("Entries"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(), transient=True) as progress:
        bar = progress.add_task("", total=total)
        for step in steps:
            progress.advance(bar, step.seen)
            yield step


def _as_lines(steps: Iterable[Step], total: int, out: OutputWrapper) -> Iterator[Step]:
    """Write a line whenever another tenth is done."""
    seen, told = 0, 0
    for step in steps:
        seen += step.seen
        if (tenth := seen * 10 // max(total, 1)) > told:
            told = tenth
            out.write(f"{seen} of {total} entries")
            out.flush()
        yield step
