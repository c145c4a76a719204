"""What each rule finds, and what it leaves alone."""

from dataclasses import replace
from typing import Any

import pytest

from alerts import rules
from alerts.kinds import AlertKind
from alerts.observations import ReplacingWorker, WorkerObservation
from alerts.rules import RULES, RuleSettings, find_problems
from runqy.broker.queues.stats import QueueCounts
from runqy.maintenance.failed_rows import RowFailures
from tests.alerts.observations import defaults, ended, minutes, observation, queue, redis_queue

GROWING = [0, 0, 10, 10, 40, 60, 60, 80, 90, 100]


@pytest.fixture(autouse=True)
def _forgets_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Apply all rules: those that raised in another test are left out for a minute."""
    monkeypatch.setattr(rules, "failures", RowFailures("alert rule"))


@pytest.mark.parametrize(
    ("fields", "kind", "message"),
    [
        (
            {"redis_queues": [redis_queue("mail_low", pending=50)]},
            AlertKind.NO_READY_WORKER,
            "Queue mail has 50 pending tasks and no ready worker.",
        ),
        (
            {"redis_queues": [redis_queue(pending=1, latency_s=700)]},
            AlertKind.OLDEST_PENDING,
            "The oldest pending task of queue mail has been waiting for 11 min.",
        ),
        (
            {"minutes": minutes(**ended(100, 30))},
            AlertKind.FAILURE_RATE,
            "30 % of the tasks of queue mail that ended in the last 5 minutes failed (30 of 100; 100 new tasks).",
        ),
        (
            {"minutes": minutes(first_ended=40, first_failed=30, tasks_ended=9)},
            AlertKind.FAILURE_RATE,
            "75 % of the first attempts of queue mail that ended in the last 5 minutes failed (30 of 40; "
            "40 new tasks).",
        ),
        (
            {"minutes": minutes(GROWING)},
            AlertKind.BACKLOG_GROWING,
            "The backlog of queue mail grew by about 12 tasks a minute in the last 10 minutes, to 100 pending tasks.",
        ),
        (
            {"vault_errors": ("The vault keys does not exist.",)},
            AlertKind.VAULT_UNREADABLE,
            "Workers cannot register for queue mail. The vault keys does not exist.",
        ),
    ],
)
def test_a_problem_of_a_queue_is_found_with_its_cause(fields: dict[str, Any], kind: AlertKind, message: str) -> None:
    findings = find_problems(observation(queue(**fields)), defaults)

    assert [(found.kind, found.queue, found.message) for found in findings] == [(kind, "mail", message)]


@pytest.mark.parametrize(("ends", "levels"), [(9_999, []), (10_000, ["warning"]), (500_000, ["warning", "critical"])])
def test_ends_that_wait_are_found_long_before_tasks_are_refused(ends: int, levels: list[str]) -> None:
    findings = find_problems(observation(queue(redis_queue("mail_low"), redis_queue("mail_high", ends=ends))), defaults)

    assert [RULES[found.kind].level for found in findings] == levels


@pytest.mark.parametrize(
    "fields",
    [
        {"redis_queues": [redis_queue(pending=50)]},
        {"redis_queues": [redis_queue("mail_low", pending=50, is_paused=True, latency_s=9000)]},
        {"redis_queues": [redis_queue("mail_low", pending=50)], "is_enabled": False},
        {"redis_queues": [redis_queue(pending=1, latency_s=600)]},
        {"redis_queues": [redis_queue(latency_s=9000)]},
        {"minutes": minutes(**ended(100, 20))},
        {"minutes": minutes(**ended(9, 9))},
        {"minutes": minutes(tasks_ended=50, tasks_failed=50, first_ended=9)},  # the last retries of older tasks
        {"minutes": minutes(**ended(100, 0, first_failed=100))},  # each succeeded when it was retried,
    ],
)
def test_a_harmless_condition_is_no_finding(fields: dict[str, Any]) -> None:
    assert find_problems(observation(queue(**fields)), defaults) == []


@pytest.mark.parametrize(
    ("backlogs", "is_found"),
    [
        (GROWING, True),
        ([*GROWING[:8], 79, 100], True),  # one task less
        ([0, 30, 20, 60, 50, 40, 90, 80, 120, 110], True),
        ([*GROWING[:8], None, 110], True),
        ([5000, *GROWING[1:]], True),  # an outlier
        ([*[0] * 5, *[500] * 5], True),
        ([*[0] * 8, 500, 500], False),  # not a trend yet
        ([*[0] * 7, 500, 400, 300], False),
        ([*[0] * 5, 1000, 900, 800, 700, 600], False),  # workers catch up
        ([200, 0, 200, 0, 200, 0, 200, 0, 200, 0], False),
        ([number // 10 for number in GROWING], False),
        ([*GROWING[:7], None, None, None], False),
        ([0, 100], False),
        ([200] * 10, False),
        ([900 - 100 * number for number in range(10)], False),
        ([None] * 10, False),
    ],
)
def test_a_backlog_grows_if_its_trend_does(backlogs: list[int | None], is_found: bool) -> None:
    findings = find_problems(observation(queue(minutes=minutes(backlogs))), defaults)

    assert bool(findings) is is_found


@pytest.mark.parametrize(
    ("replacing", "message"),
    [
        ([(True, 3600, ""), (False, 3600, "")], None),
        (
            [(True, 60, ""), (False, 3700, ""), (False, 60, "")],
            "Worker mail/0 has had its turn to replace them for 1 min: its new processes are not ready. Waiting "
            "for a turn: 2 workers, mail/1 for 1 h 1 min.",
        ),
        (
            [(False, 60, ""), (True, 60, "no such model"), (True, 60, "")],
            "Worker mail/1 has had its turn to replace them for 1 min: no such model. Waiting for a turn: "
            "1 worker, mail/0 for 1 min.",
        ),
        (
            [(True, 3700, "")],
            "Worker mail/0 has had its turn to replace them for 1 h 1 min: its new processes are not ready.",
        ),
    ],
)
def test_workers_that_wait_long_and_the_one_they_wait_for_are_named(
    replacing: list[tuple[bool, int, str]], message: str | None
) -> None:
    workers = [
        ReplacingWorker(worker_id=f"mail/{number}", has_turn=has_turn, lasts_s=lasts_s, problem=problem)
        for number, (has_turn, lasts_s, problem) in enumerate(replacing)
    ]

    findings = find_problems(observation(queue(replacing=workers), queue(name="post")), defaults)

    start = "Processes of queue mail still have the environment before its last change. "
    expected = [] if message is None else [(AlertKind.REPLACEMENT_STALLED, "mail", start + message)]
    assert [(found.kind, found.queue, found.message) for found in findings] == expected


HIGH = redis_queue("mail_high")
LOW = redis_queue("mail_low", pending=500)
PAUSED = redis_queue("mail_off", pending=70, is_paused=True, latency_s=9000)


@pytest.mark.parametrize(
    ("redis_queues", "messages"),
    [
        ([HIGH, LOW], ["Sub-queue mail_low has 500 pending tasks and no ready worker."]),
        ([HIGH, replace(LOW, is_paused=True)], []),
        ([HIGH, PAUSED], []),
        ([LOW, PAUSED], ["Sub-queue mail_low has 500 pending tasks and no ready worker."]),
        ([replace(HIGH, queue="mail_top"), LOW], ["Queue mail has 500 pending tasks and no ready worker."]),
        (
            [HIGH, LOW, redis_queue("mail_mid", pending=1)],
            ["Sub-queues mail_low, mail_mid have 501 pending tasks and no ready worker."],
        ),
        (
            [replace(HIGH, pending=2, latency_s=700), replace(PAUSED, latency_s=9000)],
            ["The oldest pending task of sub-queue mail_high has been waiting for 11 min."],
        ),
    ],
)
def test_sub_queues_are_judged_one_by_one(redis_queues: list[QueueCounts], messages: list[str]) -> None:
    findings = find_problems(observation(queue(*redis_queues)), defaults)

    assert [(found.queue, found.message) for found in findings] == [("mail", message) for message in messages]


def test_failures_before_the_window_do_not_count() -> None:
    old = minutes(**ended(100, 100))[0]
    since = [replace(point, backlog=None) for point in minutes([None] * 5, **ended(10, 0))]

    assert find_problems(observation(queue(minutes=[old, *since])), defaults) == []


@pytest.mark.parametrize(
    ("settings", "is_found"),
    [
        (RuleSettings(threshold=5), True),
        (RuleSettings(threshold=20), False),
        (RuleSettings(threshold=5, is_enabled=False), False),
    ],
)
def test_settings_of_a_queue_decide(settings: RuleSettings, is_found: bool) -> None:
    observed = observation(queue(minutes=minutes(**ended(100, 10))))

    found = find_problems(observed, lambda kind, name: settings if name == "mail" else defaults(kind, name))

    assert bool(found) is is_found


WORKERS = [
    WorkerObservation(worker_id="a", queue="mail", is_missing=True, start_failure=None, silent_s=75),
    WorkerObservation(worker_id="b", queue="mail", is_missing=False, start_failure="ModuleNotFoundError: torch"),
    WorkerObservation(worker_id="c", queue="mail", is_missing=False, start_failure=None),
]


def test_workers_that_are_missing_or_failed_are_found() -> None:
    findings = find_problems(observation(workers=WORKERS), defaults)

    assert [(found.kind, found.subject, found.message) for found in findings] == [
        (AlertKind.WORKER_MISSING, "a", "Worker a has sent no heartbeat for 1 min."),
        (AlertKind.WORKER_START_FAILED, "b", "Worker b failed to start: ModuleNotFoundError: torch"),
    ]


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        ("the child process exited with status 1\nloading\nout of memory", "the child process exited with status 1"),
        ('exited with status 1\nTraceback (most recent call last):\n  File "a.py", line 1\nKeyError: 1', "KeyError: 1"),
        (f"could not start: {'x' * 1000}\nmore", f"could not start: {'x' * 283}…"),
        ("", "unknown reason"),
    ],
)
def test_a_message_has_what_a_reason_says_happened(reason: str, shown: str) -> None:
    worker = replace(WORKERS[1], start_failure=reason)

    (found,) = find_problems(observation(workers=[worker]), defaults)

    assert found.message == f"Worker b failed to start: {shown}"


def test_settings_of_a_queue_hold_for_its_workers_and_history() -> None:
    observed = observation(
        workers=[*WORKERS, replace(WORKERS[0], worker_id="d", queue="post")], history_dropped={"mail": 1, "post": 1}
    )

    findings = find_problems(
        observed, lambda kind, name: RuleSettings(is_enabled=False) if name == "mail" else RuleSettings(for_s=90)
    )

    assert [(found.kind, found.queue, found.for_s) for found in findings] == [
        (AlertKind.WORKER_MISSING, "post", 90),
        (AlertKind.HISTORY_DROPPED, "post", 90),
    ]


def test_dropped_history_is_found_by_queue() -> None:
    findings = find_problems(observation(history_dropped={"mail": 1200, "post": 1}), defaults)

    assert [(found.queue, found.subject, found.message) for found in findings] == [
        ("mail", "mail", "1,200 runs of queue mail were found to be missing from the history in the last 10 minutes."),
        ("post", "post", "1 run of queue post was found to be missing from the history in the last 10 minutes."),
    ]


@pytest.mark.parametrize(
    ("completed", "failed", "share"),
    [(0, 10, "100 %"), (1, 999, "More than 99 %"), (999, 1, "Less than 1 %"), (49, 51, "51 %")],
)
def test_a_share_is_0_or_100_percent_only_if_none_or_all_failed(completed: int, failed: int, share: str) -> None:
    observed = observation(queue(minutes=minutes(**ended(completed + failed, failed))))

    (found,) = find_problems(observed, lambda kind, name: RuleSettings(threshold=0))

    assert found.message.startswith(f"{share} of the tasks of queue mail that ended")


@pytest.mark.parametrize(
    ("kind", "threshold", "text"),
    [
        (AlertKind.NO_READY_WORKER, 1, "1 pending task"),
        (AlertKind.NO_READY_WORKER, 1500, "1,500 pending tasks"),
        (AlertKind.BACKLOG_GROWING, 2_000_000, "2,000,000 tasks"),
        (AlertKind.OLDEST_PENDING, 600, "10 min"),
        (AlertKind.OLDEST_PENDING, 90, "1 min 30 s"),
        (AlertKind.OLDEST_PENDING, 0.5, "0.5 s"),
        (AlertKind.FAILURE_RATE, 12.5, "12.5 %"),
    ],
)
def test_a_threshold_has_its_unit(kind: AlertKind, threshold: float, text: str) -> None:
    assert RULES[kind].format_threshold(threshold) == text
