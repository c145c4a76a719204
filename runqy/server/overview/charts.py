"""The charts of the overview: the history of all queues or of one, by time."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import Any

from django.utils.safestring import SafeString

from runqy import clock
from runqy.admin_site.page_cache import get_or_read
from runqy.admin_site.times import format_utc, show_time, to_reader
from runqy.broker.states import RunOutcome
from runqy.core.formats.durations import humanize_ms
from runqy.errors import ConfigurationUnavailable
from runqy.server.overview.release_marks import ReleaseMark, list_release_marks
from tasks.history.queries import HistoryQueue, resolve_history_queue
from tasks.history.stats import StatsPoint, get_stats

CACHE_S = 10.0
"""How long pages share the charts. Their shortest interval is a minute."""
HOUR_S = 3600
MIN_ELAPSED_S = 45
"""An interval that has begun more recently has no rate, since its runs are not in the history yet."""
_POINT_RADIUS = 2.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """The unit of a chart's values."""

    name: str
    """The title of the axis."""
    suffix: str = ""
    """Text after a number, with its space."""


RUNS_PER_MINUTE = Unit(suffix="/min", name="runs per minute")
PERCENT_FAILED = Unit(suffix=" %", name="% that failed")
TASKS = Unit(name="tasks")
DURATIONS = {
    1_000: Unit(name="seconds"),
    60_000: Unit(name="minutes"),
    3_600_000: Unit(name="hours"),
    86_400_000: Unit(name="days"),
}
"""The units of durations, by their length in milliseconds."""
_MIN_UNITS = 3
"""A chart uses the largest unit of which its longest duration has at least this many."""

FAILURE_COLUMNS = {
    RunOutcome.FAILED: "Failed for good",
    RunOutcome.RETRIED: "Retried",
    RunOutcome.TIMED_OUT: "Timed out",
    RunOutcome.EXPIRED: "Expired",
    RunOutcome.LOST: "Worker lost",
}
"""The outcomes that count as failed: columns in the table of the throughput."""


class ChartRange(StrEnum):
    """How far back charts go."""

    HOUR = "1h"
    DAY = "24h"
    WEEK = "7d"

    @property
    def label(self) -> str:
        return {"1h": "1 hour", "24h": "24 hours", "7d": "7 days"}[self.value]

    @property
    def span(self) -> timedelta:
        return {"1h": timedelta(hours=1), "24h": timedelta(hours=24), "7d": timedelta(days=7)}[self.value]

    def ticks(self, queue: str) -> str:
        """Return a regular expression that matches the times at which the axis has labels."""
        # Hours of UTC begin at other minutes in some zones.
        minute = r"\d\d" if self.step_s(queue) == HOUR_S else "00"
        return {"1h": "0$", "24h": f"(00|04|08|12|16|20):{minute}$", "7d": f" 00:{minute}$"}[self.value]

    def format_time(self, time: datetime) -> str:
        """Return a time in the reader's zone, as the axis has it."""
        return f"{to_reader(time):%a %H:%M}" if self is ChartRange.WEEK else f"{to_reader(time):%H:%M}"

    def step_s(self, queue: str) -> int:
        if self is ChartRange.HOUR:
            return 60
        # Each queue has rows of its own, so that all queues together have longer intervals.
        return 900 if self is ChartRange.DAY and queue else HOUR_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """A line of a chart. Lines have different dashes, so that they can be distinguished without colours."""

    name: str
    values: Sequence[float | None]
    color: str
    dash: tuple[int, ...] = ()
    milliseconds: Sequence[float | None] = ()
    """The values in milliseconds, if they are durations; `values` are in the unit of the chart."""

    def format(self, index: int) -> str:
        """Return a value as text. A duration has a unit that suits it, not that of the chart."""
        value = self.values[index]
        if value is None:
            return "-"
        return humanize_ms(round(self.milliseconds[index] or 0)) if self.milliseconds else f"{value:,.10g}"

    @property
    def latest(self) -> int:
        """The index of the last known value, or of the last one if all are unknown."""
        return next((index for index in reversed(range(len(self.values))) if self.values[index] is not None), -1)

    @property
    def point_radii(self) -> list[float]:
        # A line needs two values, so that a value without neighbours is shown as a point.
        around = [None, *self.values, None]
        return [
            _POINT_RADIUS if before is None and after is None else 0
            for before, after in zip(around, around[2:], strict=False)
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A line chart."""

    id: str
    title: str
    unit: Unit
    series: Sequence[Series]
    details: Sequence[Series] = ()
    """Columns of the table that are not lines of the chart."""
    note: str = ""
    marks: Sequence[ReleaseMark] = ()
    chart_range: ChartRange
    starts: Sequence[datetime] = ()
    """When the intervals begin."""

    @property
    def is_empty(self) -> bool:
        return all(value is None for line in self.series for value in line.values)

    @property
    def latest(self) -> str:
        """The chart as text: the last known value of each line."""
        if self.is_empty:
            return "Nothing recorded in this period"
        texts = [(line.name, line.format(line.latest)) for line in self.series]
        return ", ".join(f"{name} {text}{'' if text == '-' else self.unit.suffix}" for name, text in texts)

    @property
    def caption(self) -> str:
        """The unit of the table's numbers. Durations have units in each cell."""
        return "" if self.series[0].milliseconds else self.unit.name

    @property
    def columns(self) -> Sequence[Series]:
        return (*self.series, *self.details)

    @property
    def labels(self) -> list[str]:
        return [self.chart_range.format_time(start) for start in self.starts]

    @property
    def rows(self) -> list[tuple[SafeString, list[tuple[str, str]]]]:
        """The rows of the table, latest first: the time, and a column's name and text for each value."""
        rows = [
            (show_time(start, text=label), [(line.name, line.format(index)) for line in self.columns])
            for index, (start, label) in enumerate(zip(self.starts, self.labels, strict=True))
        ]
        return rows[::-1]

    @property
    def data(self) -> str:
        """The JSON that the theme's chart component draws."""
        return json.dumps(
            {
                "labels": self.labels,
                "utc": [format_utc(start) for start in self.starts],
                "marks": [asdict(mark) | {"at": format_utc(mark.at)} for mark in self.marks],
                "datasets": [
                    {
                        "label": line.name,
                        "data": list(line.values),
                        "borderColor": f"var(--chart-{line.color})",
                        "backgroundColor": f"var(--chart-{line.color})",
                        "borderDash": list(line.dash),
                        "borderWidth": 2,
                        "pointRadius": line.point_radii,
                        "pointHitRadius": 8,
                        "tension": 0,
                    }
                    for line in self.series
                ],
            }
        )

    @property
    def options(self) -> str:
        """The options of Chart.js as JSON. `live.js` adds the colours of the theme, and options that are functions."""
        axis = {"border": {"display": False}, "grid": {"drawTicks": False}}
        return json.dumps(
            {
                "animation": False,
                "responsive": True,
                "maintainAspectRatio": False,
                "interaction": {"mode": "index", "intersect": False},
                "plugins": {
                    "legend": {
                        "display": len(self.series) > 1,
                        "align": "start",
                        "labels": {"usePointStyle": True, "pointStyleWidth": 30, "padding": 8},
                    }
                },
                "scales": {
                    "x": {**axis, "ticks": {"maxRotation": 0, "autoSkipPadding": 16, "padding": 6}},
                    "y": {
                        **axis,
                        "beginAtZero": True,
                        "ticks": {"maxTicksLimit": 4, "padding": 6},
                        "title": {"display": True, "text": self.unit.name},
                    },
                },
            }
        )


def read_charts(chart_range: ChartRange, queue: str = "") -> list[Chart]:
    """Return the charts of all queues, or of a queue or sub-queue that has a definition or a history.

    Raise QueueNotFound.
    """
    key = f"overview:charts:{chart_range}:{queue}"
    return get_or_read(key, list[Chart], lambda: _read_charts(chart_range, queue), max_age_s=CACHE_S)


def _read_charts(chart_range: ChartRange, queue: str) -> list[Chart]:
    named = _resolve(queue)
    end = datetime.fromtimestamp(clock.now_ns() / 1e9, UTC)
    step_s = chart_range.step_s(queue)
    points = get_stats(
        start=end - chart_range.span, end=end, step_s=step_s, queue=named.queue, redis_queue=named.redis_queue
    )
    marks = list_release_marks(named.queue, [point.start for point in points], end=end)
    return [replace(chart, marks=marks) for chart in build_charts(points, chart_range, step_s, end)]


def _resolve(queue: str) -> HistoryQueue:
    if not queue:
        return HistoryQueue()
    try:
        return resolve_history_queue(queue)
    except ConfigurationUnavailable:
        return HistoryQueue(queue=queue)


def build_charts(points: Sequence[StatsPoint], chart_range: ChartRange, step_s: int, now: datetime) -> list[Chart]:
    """Return the charts of statistics. The last interval may not have ended."""
    shown = _Statistics(points, chart_range, step_s, now)
    return [
        _build_throughput(shown),
        shown.chart(
            "failure-rate",
            "Failure rate",
            PERCENT_FAILED,
            shown.line("First attempts", "other", shown.failure_percent("first_percent"), 6, 3),
            shown.line("Tasks", "bad", shown.failure_percent("task_percent")),
            note="Of first attempts, and of tasks that ended for good. Retries are in neither.",
        ),
        shown.durations(
            "wait",
            "Wait time",
            shown.line("Median", "main", lambda point: point.wait_percentile_ms(0.5)),
            shown.line("95th percentile", "other", lambda point: point.wait_percentile_ms(0.95), 6, 3),
        ),
        shown.durations(
            "run",
            "Run time",
            shown.line("Median", "main", lambda point: point.run_percentile_ms(0.5)),
            shown.line("95th percentile", "other", lambda point: point.run_percentile_ms(0.95), 6, 3),
        ),
        shown.chart(
            "backlog",
            "Backlog",
            TASKS,
            shown.line("Pending", "main", lambda point: point.backlog),
            note=(
                f"Sampled at the end of each {_name_step(step_s)}. A gap means that nothing was pending, or that no "
                "maintenance process took samples."
            ),
        ),
        shown.durations("oldest", "Oldest pending task", shown.line("Age", "main", lambda point: point.oldest_ms)),
    ]


def _build_throughput(shown: "_Statistics") -> Chart:
    per_minute = shown.per_minute
    return shown.chart(
        "throughput",
        "Throughput",
        RUNS_PER_MINUTE,
        shown.line("Completed", "good", per_minute(lambda point: point.outcomes[RunOutcome.COMPLETED])),
        shown.line("Failed", "bad", per_minute(lambda point: point.failed), 6, 3),
        shown.line("Cancelled", "other", per_minute(lambda point: point.outcomes[RunOutcome.CANCELED]), 2, 3),
        details=[
            shown.line(name, "bad", per_minute(partial(_count_outcome, outcome)))
            for outcome, name in FAILURE_COLUMNS.items()
        ],
        note="Failed attempts are the sum of the last columns.",
    )


@dataclass(frozen=True, slots=True)
class _Statistics:
    """The statistics of a period, as parts of charts."""

    points: Sequence[StatsPoint]
    chart_range: ChartRange
    step_s: int
    now: datetime

    def chart(
        self, id_: str, title: str, unit: Unit, *series: Series, details: Sequence[Series] = (), note: str = ""
    ) -> Chart:
        return Chart(
            id=id_,
            title=title,
            unit=unit,
            chart_range=self.chart_range,
            starts=[point.start for point in self.points],
            series=series,
            details=details,
            note=note,
        )

    def durations(self, id_: str, title: str, *lines: Series) -> Chart:
        """Return a chart of lines in milliseconds, in the unit that suits the longest."""
        length_ms, unit = _find_duration_unit(max((value or 0 for line in lines for value in line.values), default=0))
        series = [
            replace(
                line,
                values=[None if value is None else _rounded(value / length_ms) for value in line.values],
                milliseconds=line.values,
            )
            for line in lines
        ]
        return self.chart(id_, title, unit, *series)

    def line(self, name: str, color: str, value: Callable[[StatsPoint], Any], *dash: int) -> Series:
        return Series(name=name, color=color, dash=dash, values=[_rounded(value(point)) for point in self.points])

    def per_minute(self, count: Callable[[StatsPoint], int]) -> Callable[[StatsPoint], float | None]:
        def rate(point: StatsPoint) -> float | None:
            elapsed_s = self._get_elapsed_s(point)
            return None if elapsed_s is None else 60 * count(point) / elapsed_s

        return rate

    def failure_percent(self, rate: str) -> Callable[[StatsPoint], float | None]:
        return lambda point: getattr(point.failures, rate) if self._get_elapsed_s(point) else None

    def _get_elapsed_s(self, point: StatsPoint) -> float | None:
        """Return how many seconds of an interval have passed; None if it has just begun, so that it has no rates."""
        elapsed_s = min((self.now - point.start).total_seconds(), self.step_s)
        return elapsed_s if elapsed_s >= MIN_ELAPSED_S else None


def _count_outcome(outcome: RunOutcome, point: StatsPoint) -> int:
    return point.outcomes[outcome]


def _find_duration_unit(longest_ms: float) -> tuple[int, Unit]:
    """Return the length in milliseconds, and the unit, for durations of a chart."""
    return next(
        ((length_ms, unit) for length_ms, unit in reversed(DURATIONS.items()) if longest_ms >= _MIN_UNITS * length_ms),
        (1_000, DURATIONS[1_000]),
    )


def _name_step(step_s: int) -> str:
    return {60: "minute", 900: "quarter of an hour", 3600: "hour"}[step_s]


def _rounded(value: float | None) -> float | None:
    """Return a value with three significant digits, which a chart can show, and at most two decimals."""
    if value is None:
        return None
    return round(float(f"{value:.3g}") if abs(value) < 1000 else value, 2 if abs(value) < 1000 else 0)
