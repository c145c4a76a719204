"""A progress bar on standard error, if that is a terminal."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from runqy.cli.output import echo
from runqy.cli.values import clean

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class ProgressBar:
    """Shows how much is done. Without a terminal it only prints messages."""

    def __init__(self, bar: "Progress | None" = None, task: "TaskID | None" = None) -> None:
        self._bar, self._task = bar, task

    @property
    def is_shown(self) -> bool:
        return self._bar is not None

    def set(self, done: float, text: str | None = None) -> None:
        if self._bar is not None and self._task is not None:
            description = {} if text is None else {"description": clean(text)}
            self._bar.update(self._task, completed=done, **description)  # type: ignore[arg-type]

    def print(self, message: str) -> None:
        """Print a line on standard error, above the bar."""
        if self._bar is None:
            echo(clean(message), err=True)
        else:
            self._bar.console.print(clean(message), markup=False, soft_wrap=True)


@contextmanager
def show_progress(text: str, *, total: float | None) -> Iterator[ProgressBar]:
    """Yield a bar that is removed at the end. Without a total it only shows that something happens."""
    if not sys.stderr.isatty():
        yield ProgressBar()
        return
    from rich.console import Console  # noqa: PLC0415 (rich is slow to import, and pipes do not need it)
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True, highlight=False), transient=True) as bar:
        yield ProgressBar(bar, bar.add_task(text, total=total))
