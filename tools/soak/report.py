"""Print the progress of a soak, and its result at the end."""

import math
import statistics
import time
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from tools.soak.checker import CheckResult, Violation

_SHOWN = 12


class Report:
    """Prints lines and tables, and collects what is broken."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True, width=110)
        self._began_s = time.monotonic()
        # Part, what, value, and `pass` or `FAIL` where there is a limit.
        self.rows: list[tuple[str, str, str, str]] = []
        self.broken: list[str] = []
        self.skipped: list[str] = []

    def section(self, title: str) -> None:
        self._console.print(f"\n[bold]{title}[/bold]")

    def note(self, text: str) -> None:
        """Print a line with the time since the start."""
        self._console.print(f"  {time.monotonic() - self._began_s:7.1f} s  {text}", markup=False)

    def skip(self, part: str, reason: str) -> None:
        """Report that a check is skipped."""
        self.skipped.append(f"{part}: {reason}")
        self.note(f"SKIPPED: {reason}")

    def fail(self, part: str, problem: str) -> None:
        """Report that something is broken."""
        self.broken.append(f"{part}: {problem}")
        self.note(f"BROKEN: {problem}")

    def figure(self, part: str, what: str, value: str, *, passed: bool | None = None) -> None:
        """Add a figure to the table at the end. `passed` is None if there is no limit for it."""
        self.rows.append((part, what, value, "" if passed is None else "pass" if passed else "FAIL"))
        self.note(f"{what}: {value}")
        if passed is False:
            self.fail(part, f"{what}: {value}")

    def require(self, part: str, what: str, value: float, *, at_most: float, unit: str = "s") -> None:
        """Add a figure that must not exceed a limit."""
        text = f"{value:.3g} {unit} (at most {at_most:g})".replace("  ", " ")
        self.figure(part, what, text, passed=value <= at_most)

    def add_result(self, part: str, check_result: CheckResult) -> None:
        """Add the result of the checker."""
        for reason, count in sorted(check_result.reruns.items()):
            self.figure(part, f"ran again: {reason}", str(count))
        for reason, times_s in sorted(check_result.restarts_s.items()):
            self.figure(part, f"ran again after: {reason}", spread(times_s))
        self.figure(part, "lost", f"{check_result.lost}, and {check_result.lost_with_redis} by a failover of Redis")
        self.figure(part, "broken invariants", str(len(check_result.violations)))
        self.add_violations(part, check_result.violations)

    def add_violations(self, part: str, violations: Sequence[Violation]) -> None:
        """Report broken invariants, the first _SHOWN of many."""
        for violation in violations[:_SHOWN]:
            self.fail(part, f"{violation.invariant}: {violation.detail}")
        if len(violations) > _SHOWN:
            self.fail(part, f"… and {len(violations) - _SHOWN} more")

    def finish(self) -> int:
        """Print the table; return the exit status."""
        table = Table(title="Soak", title_justify="left")
        for head in ("part", "what", "value", "result"):
            table.add_column(head)
        for row in self.rows:
            table.add_row(*row)
        self._console.print()
        self._console.print(table)
        for text in self.skipped:
            self._console.print(f"skipped: {text}", markup=False)
        for text in self.broken:
            self._console.print(f"broken: {text}", markup=False)
        self._console.print("BROKEN" if self.broken else "Every invariant held.")
        return int(bool(self.broken))


def spread(times_s: Sequence[float]) -> str:
    """Format median and maximum of times."""
    return f"median {statistics.median(times_s):.1f} s, worst {max(times_s):.1f} s of {len(times_s)}"


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least this share of the values does not exceed; 0 without values."""
    ordered = sorted(values)
    return ordered[min(math.ceil(share * len(ordered)), len(ordered)) - 1] if ordered else 0.0


def percentiles(times_s: Sequence[float]) -> str:
    """Format p50 and p99 of short times."""
    cuts = statistics.quantiles(times_s, n=100, method="inclusive")
    return f"p50 {cuts[49] * 1000:.1f} ms, p99 {cuts[98] * 1000:.1f} ms"


def counted(counts: Mapping[str, int]) -> str:
    """Format counts, the largest first."""
    return ", ".join(f"{name}: {count}" for name, count in sorted(counts.items(), key=lambda item: -item[1])) or "none"
