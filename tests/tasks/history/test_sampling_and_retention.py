"""Samples of the backlog, and the deletion of what is too old or too many."""

from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from runqy.broker.broker import Broker
from runqy.maintenance.models import FailedRow
from tasks.duties import BacklogSampler, HistoryPruner
from tasks.history.record import store_runs
from tasks.history.retention import prune_history
from tasks.history.rollups import HOUR_S, RunSampler, floor_time
from tasks.history.rows import QueueIdentity
from tasks.models import QueueHour, QueueMinute, TaskRun
from tasks.transactions import BatchSize
from tests.support.links import count_round_trips
from tests.support.runs import insert_runs, make_run
from tests.support.tasks import QUEUE, put, take

DAY_NS = 24 * 3600 * 10**9


def sample(broker: Broker, sampler: RunSampler, *queues: str) -> None:
    sampler.sample_all(broker, queues or (QUEUE,), None)


def test_the_duty_samples_all_queues_in_one_round_trip(broker: Broker, monkeypatch: pytest.MonkeyPatch):
    put(broker, "t1", "t2")
    put(broker, "t3", queue="video")
    calls = count_round_trips(monkeypatch, broker)

    RunSampler().sample_all(broker, [QUEUE, "video"], None)

    assert len(calls) == 1
    assert {row.redis_queue: row.backlog for row in QueueMinute.objects.all()} == {QUEUE: 2, "video": 1}
    assert {row.redis_queue: row.backlog for row in QueueHour.objects.all()} == {QUEUE: 2, "video": 1}


@pytest.mark.skipif(connection.vendor != "sqlite", reason="columns of PostgreSQL hold values of their type only")
def test_a_queue_whose_sample_is_odd_costs_no_other_queue_its_own(broker: Broker):
    now = timezone.now()
    for start in (floor_time(now, HOUR_S), floor_time(now + timedelta(hours=1), HOUR_S)):
        QueueHour.objects.create(redis_queue="odd", queue="odd", start=start, backlog=1)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE tasks_queuehour SET backlog_max = 'odd'")
    for queue in ("a", "odd", "z"):
        put(broker, f"t-{queue}", queue=queue)
    duty = BacklogSampler()

    for _ in range(2):
        duty.run_tick(broker)

    assert sorted(QueueHour.objects.exclude(redis_queue="odd").values_list("redis_queue", flat=True)) == ["a", "z"]
    failed = FailedRow.objects.get()
    assert (failed.name, failed.queue, failed.times) == ("of odd", "odd", 1)


def test_samples_keep_the_peak_and_the_longest_wait_and_add_no_counts(broker: Broker, monkeypatch: pytest.MonkeyPatch):
    now_ns = 1_800_000_030 * 10**9
    monkeypatch.setattr(broker, "now_ns", lambda: now_ns)
    put(broker, "t1", "t2", "t3")
    insert_runs(make_run(ended_ns=now_ns))
    monkeypatch.setattr(broker, "now_ns", lambda: now_ns + 5 * 10**9)
    sampler = RunSampler()
    sample(broker, sampler)
    take(broker, 2)
    sample(broker, sampler)

    row = QueueMinute.objects.get(backlog__isnull=False)
    assert (row.backlog, row.backlog_max, row.oldest_ms) == (1, 3, 5000)
    assert row.completed == 1


def test_a_queue_that_became_empty_gets_a_last_sample_and_then_none(broker: Broker):
    put(broker, "t1")
    sampler = RunSampler()
    sample(broker, sampler)
    take(broker, 1)
    sample(broker, sampler)
    assert QueueMinute.objects.latest("start").backlog == 0
    QueueMinute.objects.all().delete()

    sample(broker, sampler)

    assert QueueMinute.objects.count() == 0


def test_the_duty_of_samples_runs_without_queues(broker: Broker):
    BacklogSampler().run_tick(broker)

    assert QueueMinute.objects.count() == 0


def test_runs_older_than_the_limit_are_deleted(broker: Broker, settings, monkeypatch: pytest.MonkeyPatch):
    settings.RUNQY_HISTORY_DAYS = 2
    monkeypatch.setattr("tasks.history.retention.BatchSize", lambda: BatchSize(2))
    now_ns = broker.now_ns()
    insert_runs(*(make_run(task_id=f"old{n}", ended_ns=now_ns - 3 * DAY_NS) for n in range(5)))
    insert_runs(make_run(task_id="new", ended_ns=now_ns - DAY_NS))

    HistoryPruner().run_tick(broker)

    assert [run.task_id for run in TaskRun.objects.all()] == ["new"]


def test_the_oldest_runs_beyond_the_rows_of_each_queue_are_deleted(broker: Broker, settings):
    settings.RUNQY_HISTORY_MAX_ROWS = 3
    now_ns = broker.now_ns()
    insert_runs(*(make_run(task_id=f"m{n}", ended_ns=now_ns - (9 - n) // 2) for n in range(6)))
    insert_runs(*(make_run(task_id=f"v{n}", ended_ns=now_ns + n * 10**6) for n in range(4)), queue="video")

    assert prune_history() == 4

    assert {run.task_id for run in TaskRun.objects.all()} == {"m3", "m4", "m5", "v1", "v2", "v3"}


def test_runs_that_any_pruning_deleted_are_not_stored_again(broker: Broker, settings):
    settings.RUNQY_HISTORY_MAX_ROWS = 1
    now_ns = broker.now_ns()
    runs = [make_run(task_id=f"t{n}", ended_ns=now_ns + n * 10**6) for n in range(3)]
    for run in runs:
        insert_runs(run)
        prune_history()

    store_runs(QueueIdentity(redis_queue=QUEUE, queue=QUEUE, sub_queue=""), runs)

    assert [run.task_id for run in TaskRun.objects.all()] == ["t2"]


def test_minutes_are_kept_for_90_days_and_hours_for_two_years(broker: Broker):
    now = timezone.now()
    for age in (timedelta(days=89), timedelta(days=91), timedelta(days=729), timedelta(days=731)):
        for model in (QueueMinute, QueueHour):
            model.objects.create(redis_queue=QUEUE, queue=QUEUE, start=now - age)

    prune_history()

    assert QueueMinute.objects.count() == 1
    assert QueueHour.objects.count() == 3
