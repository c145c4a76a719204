"""Prints figures as ratios within their own run: two runs, or two machines, do not compare."""

import statistics
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table


class Report:
    """Collects rows a section and prints them as they come."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, width=118)
        self.missed: list[str] = []

    def section(self, title: str) -> None:
        """Begin a group of figures."""
        self._console.print(f"\n[bold]{title}[/bold]")

    def yardstick(self, what: str, value: float, unit: str) -> None:
        """Print what the following figures are compared with."""
        self._row(what, value, unit, "1", "")

    def ratio(
        self, what: str, value: float, against: float, unit: str, *, goal: float = 0.0, is_lower_better: bool = False
    ) -> None:
        """Print a figure, its ratio to another one of this run, and whether the ratio reaches its goal."""
        ratio = value / against if against else 0.0
        self._row(what, value, unit, f"{ratio:.3f}", self._verdict(what, ratio, goal, is_lower_better))

    def paired(self, what: str, values: Sequence[float], against: Sequence[float], unit: str, *, goal: float) -> None:
        """Print the median of what each round gave against its neighbour: a slow spell hits both."""
        ratio = statistics.median(value / other for value, other in zip(values, against, strict=True))
        self._row(what, statistics.median(values), unit, f"{ratio:.3f}", self._verdict(what, ratio, goal, False))

    def figure(self, what: str, value: float, unit: str, *, goal: float = 0.0) -> None:
        """Print a figure that must stay below its goal."""
        self._row(what, value, unit, "", self._verdict(what, value, goal, True))

    def note(self, text: str) -> None:
        """Print a line of text."""
        self._console.print(f"  [dim]{text}[/dim]")

    def _row(self, what: str, value: float, unit: str, ratio: str, verdict: str) -> None:
        table = Table.grid(padding=(0, 2))
        for width, justify in ((58, "left"), (12, "right"), (11, "left"), (7, "right"), (16, "left")):
            table.add_column(width=width, justify=justify)  # type: ignore[arg-type]
        spelled = f"{value:,.0f}" if value >= 100 else f"{value:,.2f}"
        table.add_row(f"  {what}", spelled, unit, ratio, verdict)
        self._console.print(table)

    def _verdict(self, what: str, value: float, goal: float, is_lower_better: bool) -> str:
        if not goal:
            return ""
        is_reached = value <= goal if is_lower_better else value >= goal
        if not is_reached:
            self.missed.append(what)
        sign = "≤" if is_lower_better else "≥"
        return f"[green]{sign} {goal:g}[/green]" if is_reached else f"[red]missed {sign} {goal:g}[/red]"
