"""The soak's part about rotations detects each kind of error: it gets a step with one error."""

from dataclasses import replace
from typing import Any

import pytest

from tools.soak.parts.rotations import ALPHA, Step, judge_gaps, judge_replacements, judge_waits
from tools.soak.report import Report
from tools.soak.runs import Run

ROTATED = Step(name="a secret", rotated=[ALPHA], released=(), is_at_once=False, began_at=100.0, ended_at=200.0)
LEAKED = replace(ROTATED, name="a leaked secret", is_at_once=True)
RELEASED = replace(ROTATED, name="a release and a secret", released=[ALPHA])


def loads(*times: tuple[str, float, float]) -> list[dict[str, Any]]:
    """Return what processes noted, given by worker and from when to when they loaded."""
    return [
        {"event": event, "worker": worker, "pid": pid, "at": at}
        for pid, (worker, began_at, ended_at) in enumerate(times)
        for event, at in (("loading", began_at), ("loaded", ended_at))
    ]


@pytest.mark.parametrize(
    ("step", "worker", "started_at", "broken"),
    [
        (ROTATED, "alpha-1", 155.0, []),
        (ROTATED, "alpha-1", 155.1, ["rotations: a secret: longest wait in alpha: 5.1 s (at most 5)"]),
        (ROTATED, "beta-1", 156.0, ["rotations: a secret: longest wait in beta: 6 s (at most 5)"]),
        (LEAKED, "alpha-1", 165.0, []),
        (LEAKED, "beta-1", 165.0, ["rotations: a leaked secret: longest wait in beta: 15 s (at most 5)"]),
    ],
)
def test_a_wait_as_long_as_a_load_is_noticed(step: Step, worker: str, started_at: float, broken: list[str]) -> None:
    report, run = Report(), Run(task_id="t", run_id="r", worker=worker, started_at=started_at)

    judge_waits(
        [step], {"t": 150.0, "never ran": 150.0, "before": 99.0}, {"t": [run], "before": [run]}, report, load_s=10
    )

    assert report.broken == broken


def test_a_queue_without_a_ready_worker_is_noticed() -> None:
    report = Report()

    judge_gaps([ROTATED, replace(LEAKED, began_at=200.0)], {ALPHA: [(150.0, 152.5), (205.0, 235.0)]}, report)

    assert report.broken == ["rotations: longest time without a ready worker of alpha: 2.5 s (at most 2)"]


@pytest.mark.parametrize(
    ("step", "journal", "broken"),
    [
        (ROTATED, loads(("alpha-1", 110, 120), ("alpha-2", 120.1, 130)), 0),
        (ROTATED, loads(("alpha-1", 110, 120), ("alpha-2", 119, 130)), 1),
        (ROTATED, loads(("beta-1", 110, 120)), 1),
        (ROTATED, loads(("beta-1", 90, 110)), 0),
        (RELEASED, loads(("alpha-1", 110, 120), ("alpha-2", 110, 120)), 0),
        (LEAKED, loads(("alpha-1", 110, 120), ("alpha-2", 110, 120), ("beta-1", 110, 120)), 1),
    ],
)
def test_workers_that_are_replaced_together_or_for_nothing_are_noticed(
    step: Step, journal: list[dict[str, Any]], broken: int
) -> None:
    report = Report()

    judge_replacements([step], journal, report)

    assert len(report.broken) == broken
