"""The queues that fail most, and why."""

import pytest

from runqy import clock
from runqy.broker.states import RunOutcome
from tasks.history.failure_counts import FailureCounts
from tasks.history.stats import FailingQueue, list_failing_queues
from tasks.models import TaskRun
from tests.support.runs import insert_runs, make_failure, make_run

pytestmark = pytest.mark.usefixtures("configuration", "stopped_clock")
HOUR_NS = 3600 * 10**9


def fingerprint(task_id: str) -> str:
    return TaskRun.objects.get(task_id=task_id).fingerprint or ""


def test_queues_are_listed_by_failures_with_their_most_frequent_error() -> None:
    insert_runs(
        make_failure("KeyError: 'vat_id'", task_id="often"),
        make_failure("KeyError: 'vat_id'", outcome=RunOutcome.RETRIED, is_final=False),
        make_failure("OSError: no space left", outcome=RunOutcome.TIMED_OUT),
        *(make_run() for _ in range(7)),
        queue="invoices",
    )
    insert_runs(make_failure("TimeoutError: 30 s", task_id="once"), queue="mail")
    insert_runs(make_run(), make_run(outcome=RunOutcome.CANCELED), queue="healthy")

    assert list_failing_queues() == [
        FailingQueue(
            name="invoices",
            failed=3,
            ended=10,
            failures=FailureCounts(first_ended=10, first_failed=3, tasks_ended=9, tasks_failed=2),
            reason="KeyError: 'vat_id'",
            fingerprint=fingerprint("often"),
        ),
        FailingQueue(
            name="mail",
            failed=1,
            ended=1,
            failures=FailureCounts(first_ended=1, first_failed=1, tasks_ended=1, tasks_failed=1),
            reason="TimeoutError: 30 s",
            fingerprint=fingerprint("once"),
        ),
    ]


def test_failures_of_yesterday_do_not_count() -> None:
    ended_ns = clock.now_ns() - 25 * HOUR_NS
    insert_runs(make_failure(ended_ns=ended_ns, started_ns=ended_ns))

    assert list_failing_queues() == []


def test_failures_in_the_first_minute_of_the_hour_count() -> None:
    ended_ns = clock.now_ns() - HOUR_NS + 5 * 10**9
    insert_runs(make_failure(ended_ns=ended_ns, started_ns=ended_ns), queue="invoices")

    assert [(queue.name, queue.failed) for queue in list_failing_queues()] == [("invoices", 1)]


def test_failures_without_a_stored_run_have_no_reason() -> None:
    insert_runs(make_failure())
    TaskRun.objects.all().delete()

    (queue,) = list_failing_queues()

    assert (queue.failed, queue.reason, queue.fingerprint) == (1, "", "")


def test_overviews_share_one_reading(django_assert_num_queries, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = clock.monotonic_s()
    monkeypatch.setattr(clock, "monotonic_s", lambda: now_s)
    insert_runs(make_failure())
    list_failing_queues()

    with django_assert_num_queries(0):
        list_failing_queues()
