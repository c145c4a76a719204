"""Print figures as ratios within one run: those of two runs, or two machines, cannot be compared."""

import statistics
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

_COLUMNS = (("left", 58), ("right", 9), ("left", 10), ("right", 9), ("right", 6), ("left", 14))


class Report:
    """Prints rows as they come, and collects the goals that were missed."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, width=122)
        self.missed: list[str] = []

    def section(self, title: str) -> None:
        self._console.print(f"\n[bold]{title}[/bold]")
        self._row("", "", "", *(f"[dim]{head}[/dim]" for head in ("against", "ratio", "goal")))

    def baseline(self, what: str, value: float, unit: str) -> None:
        """Print what the following figures are compared with."""
        self._row(f"  {what}", _rendered(value), unit, "", "1", "")

    def ratio(
        self, what: str, value: float, against: float, unit: str, *, goal: float = 0.0, is_lower_better: bool = False
    ) -> None:
        """Print a figure, its ratio to another figure of this run, and whether the ratio reaches its goal."""
        self.paired(what, [value], [against], unit, goal=goal, is_lower_better=is_lower_better)

    def paired(
        self,
        what: str,
        values: Sequence[float],
        against: Sequence[float],
        unit: str,
        *,
        goal: float = 0.0,
        is_lower_better: bool = False,
    ) -> None:
        """Print medians, and the median of the ratios of the rounds: a slow period affects both of a pair."""
        ratio = statistics.median(value / other for value, other in zip(values, against, strict=True))
        verdict = self._verdict(what, ratio, goal, is_lower_better)
        medians = _rendered(statistics.median(values)), _rendered(statistics.median(against))
        self._row(f"  {what}", medians[0], unit, medians[1], f"{ratio:.2f}", verdict)

    def figure(self, what: str, value: float, unit: str, *, goal: float = 0.0) -> None:
        """Print a figure that must stay below its goal."""
        self._row(f"  {what}", _rendered(value), unit, "", "", self._verdict(what, value, goal, True))

    def at_least(self, what: str, value: float, *, goal: float) -> None:
        """Print a count that must reach its goal."""
        self._row(f"  {what}", _rendered(value), "", "", "", self._verdict(what, value, goal, False))

    def failures(self, counts: Mapping[str, int]) -> None:
        """Print which loads had failed requests, because their figures mean nothing."""
        if failed := ", ".join(f"{count:,} of {name}" for name, count in counts.items() if count):
            self.missed.append(f"failed requests: {failed}")
            self.note(f"failed requests: {failed}")

    def note(self, text: str) -> None:
        self._console.print(f"  [dim]{text}[/dim]")

    def _row(self, *cells: str) -> None:
        table = Table.grid(padding=(0, 2))
        for justify, width in _COLUMNS:
            table.add_column(width=width, justify=justify)  # type: ignore[arg-type]
        table.add_row(*cells)
        self._console.print(table)

    def _verdict(self, what: str, value: float, goal: float, is_lower_better: bool) -> str:
        if not goal:
            return ""
        is_reached = value <= goal if is_lower_better else value >= goal
        if not is_reached:
            self.missed.append(what)
        sign = "≤" if is_lower_better else "≥"
        return f"[green]{sign} {goal:g}[/green]" if is_reached else f"[red]missed {sign} {goal:g}[/red]"


def _rendered(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.2f}"
