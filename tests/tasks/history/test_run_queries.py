"""Reading the history of runs: lists, statistics, groups of errors."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from runqy.broker.states import RunOutcome
from tasks.history.error_groups import find_known_groups, list_error_groups
from tasks.history.queries import RunFilter, RunOrder, list_runs
from tasks.history.stats import get_stats, get_stats_by_queue
from tasks.models import QueueHour, QueueMinute
from tests.support.runs import insert_runs, make_failure, make_run

pytestmark = pytest.mark.django_db

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
NOON_NS = int(NOON.timestamp()) * 10**9
SECOND, DAY = 10**9, 86_400 * 10**9


def ids(runs: list) -> list[str]:
    return [run.task_id for run in runs]


def test_pages_of_runs_hold_each_once_even_when_they_ended_together():
    insert_runs(*(make_run(task_id=f"t{n}", ended_ns=NOON_NS) for n in range(5)))

    first = list_runs(RunFilter(), limit=2)
    second = list_runs(RunFilter(), limit=2, after=first.end)
    last = list_runs(RunFilter(), limit=2, after=second.end)

    assert ids(first.runs + second.runs + last.runs) == ["t4", "t3", "t2", "t1", "t0"]
    assert last.end is None


def test_the_slowest_runs_come_first_and_those_without_duration_not_at_all():
    insert_runs(
        make_run(task_id="fast", ended_ns=NOON_NS, started_ns=NOON_NS - SECOND),
        make_run(task_id="slow", ended_ns=NOON_NS, started_ns=NOON_NS - 60 * SECOND),
        make_run(task_id="never", started_ns=None, attempt=0, outcome=RunOutcome.EXPIRED),
    )

    first = list_runs(RunFilter(), limit=1, order=RunOrder.SLOWEST)
    second = list_runs(RunFilter(), limit=1, order=RunOrder.SLOWEST, after=first.end)

    assert ids(first.runs) == ["slow"]
    assert ids(second.runs) == ["fast"]
    assert second.end is None


@pytest.mark.parametrize(
    ("run_filter", "found"),
    [
        (RunFilter(queue="mail"), {"ok", "bad"}),
        (RunFilter(outcomes=frozenset({RunOutcome.FAILED})), {"bad"}),
        (RunFilter(worker_id="w2"), {"other"}),
        (RunFilter(commit="abc"), {"ok"}),
        (RunFilter(since=NOON, until=NOON + timedelta(seconds=1)), {"ok"}),
        (RunFilter(allowed_queues=frozenset({"video"})), {"other"}),
        (RunFilter(allowed_queues=frozenset()), set()),
        (RunFilter(task_id="bad"), {"bad"}),
        (RunFilter(min_run_ms=5000), {"other"}),
        (RunFilter(is_final=True), {"ok", "bad", "other"}),
        (RunFilter(is_final=False), set()),
    ],
)
def test_runs_are_filtered(run_filter: RunFilter, found: set[str]):
    insert_runs(
        make_run(task_id="ok", ended_ns=NOON_NS, commit="abc"),
        make_failure(task_id="bad", ended_ns=NOON_NS + SECOND),
    )
    other = make_run(task_id="other", ended_ns=NOON_NS - SECOND, started_ns=NOON_NS - 9 * SECOND, worker_id="w2")
    insert_runs(other, queue="video")

    assert {run.task_id for run in list_runs(run_filter, limit=10).runs} == found


def test_errors_that_differ_in_ids_and_numbers_are_one_group_of_each_queue():
    insert_runs(
        make_failure("ValueError: no user 17 in '/srv/a b'", task_id="old", ended_ns=NOON_NS),
        make_failure("ValueError: no user 4 in '/tmp/x'", task_id="new", ended_ns=NOON_NS + SECOND),
        make_failure("KeyError: 'name'", ended_ns=NOON_NS),
    )
    insert_runs(make_failure("ValueError: no user 9 in '/y'", ended_ns=NOON_NS), queue="video")

    groups = list_error_groups(RunFilter(queue="mail"), limit=10).groups

    largest = groups[0]
    assert (largest.count, largest.sample.task_id, largest.sample.error_class) == (2, "new", "ValueError")
    assert (largest.first_seen, largest.last_seen) == (NOON, NOON + timedelta(seconds=1))
    assert [group.count for group in groups] == [2, 1]
    assert len(list_error_groups(RunFilter(), limit=10).groups) == 3


@pytest.mark.parametrize("step_s", [60, 3600])
def test_statistics_count_each_run_where_it_was_enqueued_started_and_ended(step_s: int):
    hour_ns = 3600 * SECOND
    slow = make_run(
        ended_ns=NOON_NS + hour_ns, started_ns=NOON_NS, enqueued_ns=NOON_NS - 1000 * SECOND, due_ns=NOON_NS - SECOND
    )
    insert_runs(slow, make_failure(ended_ns=NOON_NS + hour_ns, started_ns=NOON_NS, attempt=2))

    points = {
        point.start: point
        for point in get_stats(start=NOON - timedelta(hours=1), end=NOON + timedelta(hours=2), step_s=step_s)
    }

    assert sum(point.enqueued for point in points.values()) == 1
    assert points[NOON].started == 2
    ended = points[NOON + timedelta(hours=1)]
    assert (ended.outcomes[RunOutcome.COMPLETED], ended.outcomes[RunOutcome.FAILED], ended.failed) == (1, 1, 1)
    assert ended.run_percentile_ms(0.5) == pytest.approx(3_600_000, rel=0.25)
    assert ended.run_sum_ms == 2 * 3_600_000
    assert len(points) == 3 * 3600 // step_s


def test_sub_queues_count_for_their_queue_and_the_last_sample_of_each_is_its_backlog():
    insert_runs(make_run(ended_ns=NOON_NS), queue="mail", sub_queue="high", redis_queue="mail_high")
    insert_runs(make_run(ended_ns=NOON_NS), queue="mail", sub_queue="low", redis_queue="mail_low")
    for model in (QueueMinute, QueueHour):
        model.objects.filter(redis_queue="mail_high").update(backlog=5, backlog_max=9, oldest_ms=100)
        model.objects.filter(redis_queue="mail_low").update(backlog=2, backlog_max=2, oldest_ms=300)

    stats = get_stats_by_queue(start=NOON, end=NOON + timedelta(minutes=1), step_s=60)

    (point,) = stats["mail"]
    assert (point.ended, point.backlog, point.backlog_max, point.oldest_ms) == (2, 7, 11, 300)


def test_a_run_that_is_stored_twice_counts_once():
    run = make_run(ended_ns=NOON_NS)
    insert_runs(run)
    insert_runs(run)

    (point,) = get_stats(start=NOON, end=NOON + timedelta(minutes=1), step_s=60)
    assert point.ended == 1
    assert len(list_runs(RunFilter(), limit=10).runs) == 1


@pytest.mark.parametrize("order", list(RunOrder))
def test_pages_of_several_outcomes_and_queues_are_in_one_order(order: RunOrder):
    for n in range(12):
        outcome = (RunOutcome.FAILED, RunOutcome.LOST, RunOutcome.COMPLETED)[n % 3]
        run = make_run(task_id=f"t{n:02}", ended_ns=NOON_NS + n, started_ns=NOON_NS - n * SECOND, outcome=outcome)
        insert_runs(run, queue=("mail", "video", "other")[n // 4])
    allowed = RunFilter(
        allowed_queues=frozenset({"mail", "video"}), outcomes=frozenset({RunOutcome.FAILED, RunOutcome.LOST})
    )
    seen, end = [], None
    while True:
        page = list_runs(allowed, limit=2, order=order, after=end)
        seen += ids(page.runs)
        if (end := page.end) is None:
            break

    expected = ["t00", "t01", "t03", "t04", "t06", "t07"]
    assert seen == (expected if order is RunOrder.OLDEST else expected[::-1])


def test_only_the_newest_failures_are_counted_in_groups(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tasks.history.error_groups.MAX_FAILURES", 3)
    insert_runs(*(make_failure(f"ValueError: {n}", ended_ns=NOON_NS + n * SECOND) for n in range(3)))
    complete = list_error_groups(RunFilter(), limit=10)
    insert_runs(make_failure("KeyError: 'x'", ended_ns=NOON_NS + 9 * SECOND))

    partial = list_error_groups(RunFilter(), limit=10)

    assert ([group.count for group in complete.groups], complete.is_partial) == ([3], False)
    assert [(group.sample.error_class, group.count) for group in partial.groups] == [("ValueError", 2), ("KeyError", 1)]
    assert partial.is_partial
    assert not list_error_groups(RunFilter(since=NOON + timedelta(seconds=2)), limit=10).is_partial


@pytest.mark.skipif(connection.vendor != "sqlite", reason="PostgreSQL plans by statistics")
@pytest.mark.parametrize("queue", ["", "mail"])
def test_groups_of_errors_are_counted_from_indexes_of_failures_alone(queue: str):
    with CaptureQueriesContext(connection) as queries:
        list_error_groups(RunFilter(queue=queue, since=NOON), limit=10)
    with connection.cursor() as cursor:
        for query in queries.captured_queries[:2]:
            cursor.execute(f"EXPLAIN QUERY PLAN {query['sql']}")
            assert re.search("USING COVERING INDEX run_by_(queue_)?failure", cursor.fetchone()[3])


def test_groups_that_occurred_before_are_found_in_one_query():
    insert_runs(make_failure("ValueError: 1", ended_ns=NOON_NS), make_failure("ValueError: 2", ended_ns=NOON_NS + DAY))
    insert_runs(make_failure("KeyError: 'x'", ended_ns=NOON_NS + DAY))
    insert_runs(make_failure("KeyError: 'x'", ended_ns=NOON_NS), queue="video")
    since = NOON + timedelta(hours=1)
    groups = list_error_groups(RunFilter(since=since), limit=10).groups

    with CaptureQueriesContext(connection) as captured:
        known = find_known_groups(groups, {"mail": since})

    # PostgreSQL limits how long it may take, by statements of its own.
    assert sum("taskrun" in query["sql"] for query in captured) == 1, captured.captured_queries
    assert known == {group.key for group in groups if group.sample.error_class == "ValueError"}
    assert find_known_groups(groups, {}) == {group.key for group in groups}
    assert find_known_groups(groups, {"mail": since + timedelta(days=2)}) == {group.key for group in groups}
