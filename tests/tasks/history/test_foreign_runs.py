"""Runs of Go's workers, which log nothing, are recorded from the state in which they left their tasks."""

from datetime import timedelta

import pytest
from django.test import override_settings
from msgspec.structs import replace

from runqy.broker import keys
from runqy.broker.broker import Broker
from runqy.broker.duties.pending_timeouts import archive_all_timed_out
from runqy.broker.keys import QueueKeys
from runqy.broker.message import decode
from runqy.broker.streams.run_log import EndedRun
from runqy.broker.tasks.cancel import cancel
from runqy.broker.tasks.finish import archive
from runqy.maintenance.models import FailedRow
from tasks.duties import ForeignRuns
from tasks.history.foreign_runs import ForeignRunSearch
from tasks.history.retention import prune_history
from tasks.history.rollups import HOUR_S, floor_time
from tasks.history.rows import QueueIdentity, RunRow, build_row
from tasks.models import QueueHour, QueueMinute, TaskRun
from tests.support.redis_client import redis_of
from tests.support.tasks import QUEUE, put, take_one
from tests.tasks.history.history_status import get_history_status

DAY_S = 86_400


@pytest.fixture(autouse=True)
def _go_worker(broker: Broker) -> None:
    redis_of(broker).zadd(keys.WORKERS, {"go-worker-1": broker.now_s() + 600})


def end_as_asynq(
    broker: Broker,
    task_id: str,
    state: str,
    *,
    error: str = "",
    retried: int = 0,
    ago_s: int = 0,
    queue: str = QUEUE,
    **fields: str,
) -> None:
    """Leave a pending task as asynq's scripts do."""
    keys, client, now_s = QueueKeys(queue), redis_of(broker), broker.now_s() - ago_s
    message = decode(client.hget(keys.task(task_id), "msg"))
    message.error_msg, message.retried = error, retried
    message.last_failed_at, message.completed_at = (now_s, 0) if error else (0, now_s)
    client.lrem(keys.pending, 0, task_id)
    client.hset(keys.task(task_id), mapping={"msg": message.SerializeToString(), "state": state} | fields)
    client.zadd(f"{keys.prefix}{state}", {task_id: now_s if state == "archived" else now_s + DAY_S})


def test_what_go_workers_ended_is_recorded_once_and_marked(broker: Broker):
    put(broker, "ok", "bad", "again")
    end_as_asynq(broker, "ok", "completed")
    end_as_asynq(broker, "bad", "archived", error="ValueError: no", retried=3)
    end_as_asynq(broker, "again", "retry", error="busy", retried=1)
    duty = ForeignRuns()

    duty.run_tick(broker)
    duty.run_tick(broker)
    ForeignRuns().run_tick(broker)

    rows = {run.task_id: (run.outcome, run.attempt, run.is_final, run.is_foreign) for run in TaskRun.objects.all()}
    assert rows == {
        "ok": ("completed", 1, True, True),
        "bad": ("failed", 4, True, True),
        "again": ("retried", 1, False, True),
    }
    assert TaskRun.objects.count() == 3


def test_a_queue_whose_statistics_are_odd_costs_no_other_queue_its_runs(broker: Broker):
    for queue in ("a", "odd", "z"):
        put(broker, f"t-{queue}", queue=queue)
        end_as_asynq(broker, f"t-{queue}", "completed", queue=queue)
    now = broker.now()
    for start in (floor_time(now, HOUR_S), floor_time(now + timedelta(hours=1), HOUR_S)):
        for row in ("wait_histogram", "run_histogram"):
            QueueHour.objects.update_or_create(redis_queue="odd", queue="odd", start=start, defaults={row: 7})
    duty = ForeignRuns()

    for _ in range(2):
        duty.run_tick(broker)

    assert sorted(TaskRun.objects.values_list("task_id", flat=True)) == ["t-a", "t-z"]
    failed = FailedRow.objects.get()
    assert (failed.name, failed.queue, failed.times) == ("of odd", "odd", 1)


def test_the_next_attempt_of_a_task_is_another_run(broker: Broker):
    put(broker, "t1")
    search = ForeignRunSearch()
    end_as_asynq(broker, "t1", "retry", error="busy", retried=1, ago_s=20)
    search.record_all(broker, [QUEUE], None)
    redis_of(broker).zrem(QueueKeys(QUEUE).retry, "t1")
    end_as_asynq(broker, "t1", "retry", error="busy", retried=2)

    search.record_all(broker, [QUEUE], None)

    assert [run.attempt for run in TaskRun.objects.order_by("attempt")] == [1, 2]


def test_many_are_followed_over_several_pages(broker: Broker, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tasks.history.foreign_runs.PAGE_SIZE", 2)
    put(broker, *(f"t{n}" for n in range(7)))
    for n in range(7):
        end_as_asynq(broker, f"t{n}", "completed")

    assert ForeignRunSearch().record_all(broker, [QUEUE], None) == 7


def test_what_the_server_and_our_workers_ended_is_not_foreign(broker: Broker):
    put(broker, "ours", "canceled")
    ours = take_one(broker)
    broker.run(archive(ours.lease, ours.message, error="e", now_ns=broker.now_ns()))
    broker.run(cancel(QUEUE, "canceled", now_ns=broker.now_ns()))
    put(broker, "expired")
    redis_of(broker).hset(QueueKeys(QUEUE).task("expired"), "pending_since", 10**18)
    broker.run(archive_all_timed_out(broker, {QUEUE: 5}))

    assert redis_of(broker).zcard(QueueKeys(QUEUE).archived) == 3
    assert ForeignRunSearch().record_all(broker, [QUEUE], None) == 0


def archive_by_hand(broker: Broker, task_id: str) -> None:
    """Archive a task in `retry` as asynq's tools do: its message stays as it is."""
    queue = QueueKeys(QUEUE)
    redis_of(broker).zrem(queue.retry, task_id)
    redis_of(broker).zadd(queue.archived, {task_id: broker.now_s()})
    redis_of(broker).hset(queue.task(task_id), "state", "archived")


def recorded() -> list[tuple[str, int, bool]]:
    return [(run.outcome, run.attempt, run.is_final) for run in TaskRun.objects.order_by("ended_at")]


def failures() -> int:
    return sum(row.failed for row in QueueMinute.objects.all())


@pytest.mark.parametrize("was_seen", [True, False])
def test_a_task_that_was_archived_by_hand_failed_when_it_last_ran_and_not_again(broker: Broker, was_seen: bool):
    put(broker, "t1")
    end_as_asynq(broker, "t1", "retry", error="busy", retried=1, ago_s=600)
    search = ForeignRunSearch()
    if was_seen:
        search.record_all(broker, [QUEUE], None)

    archive_by_hand(broker, "t1")
    search.record_all(broker, [QUEUE], None)

    assert recorded() == [("retried", 1, False)]
    assert failures() == 0
    assert TaskRun.objects.get().ended_at.timestamp() <= broker.now_s() - 600


def test_a_task_that_was_archived_by_hand_is_no_failure_if_nothing_knows_when_it_failed(broker: Broker):
    put(broker, "t1")
    end_as_asynq(broker, "t1", "retry", retried=1, error_msg="busy")
    archive_by_hand(broker, "t1")

    ForeignRunSearch().record_all(broker, [QUEUE], None)

    assert recorded() == []


def test_a_task_that_fails_runs_again_and_completes_has_both_runs(broker: Broker):
    put(broker, "t1")
    search = ForeignRunSearch()
    end_as_asynq(broker, "t1", "archived", error="busy", retried=3, ago_s=60)
    search.record_all(broker, [QUEUE], None)
    redis_of(broker).zrem(QueueKeys(QUEUE).archived, "t1")
    end_as_asynq(broker, "t1", "completed", retried=3)

    search.record_all(broker, [QUEUE], None)

    assert recorded() == [("failed", 4, True), ("completed", 4, True)]


def test_the_end_of_a_task_of_gos_runqy_worker_is_estimated_from_its_expiry(broker: Broker):
    put(broker, "t1")
    end_as_asynq(broker, "t1", "archived", error_msg="boom")
    expiry_s = broker.now_s() + 72 * 3600 - 100
    redis_of(broker).zadd(QueueKeys(QUEUE).archived, {"t1": expiry_s})

    for _ in range(2):
        ForeignRunSearch().record_all(broker, [QUEUE], None)

    assert recorded() == [("failed", 1, True)]
    assert TaskRun.objects.get().ended_at.timestamp() == expiry_s - 72 * 3600


def test_runs_older_than_the_history_are_not_recorded(broker: Broker, settings):
    settings.RUNQY_HISTORY_DAYS = 2
    put(broker, "old", "new")
    end_as_asynq(broker, "old", "archived", error="e", ago_s=2 * DAY_S + 60)
    end_as_asynq(broker, "new", "archived", error="e", ago_s=2 * DAY_S - 60)

    ForeignRunSearch().record_all(broker, [QUEUE], None)

    assert [run.task_id for run in TaskRun.objects.all()] == ["new"]


@pytest.mark.parametrize("limit", ["rows", "days"])
def test_a_task_that_outlives_its_run_is_counted_once(broker: Broker, settings, limit: str):
    put(broker, "t1", "t2")
    end_as_asynq(broker, "t1", "archived", error="e", ago_s=2 * DAY_S)
    end_as_asynq(broker, "t2", "archived", error="e")
    ForeignRunSearch().record_all(broker, [QUEUE], None)
    with override_settings(**({"RUNQY_HISTORY_MAX_ROWS": 1} if limit == "rows" else {"RUNQY_HISTORY_DAYS": 1})):
        prune_history()
    assert [run.task_id for run in TaskRun.objects.all()] == ["t2"]

    assert ForeignRunSearch().record_all(broker, [QUEUE], None) == 0

    assert (TaskRun.objects.count(), failures()) == (1, 2)


def test_a_task_with_values_that_cannot_be_stored_hinders_no_other(broker: Broker, monkeypatch: pytest.MonkeyPatch):
    put(broker, "odd", "t1", "t2")
    for task_id in ("odd", "t1", "t2"):
        end_as_asynq(broker, task_id, "archived", error="e\0", worker="w\0" * 300)

    def refuse(identity: QueueIdentity, run: EndedRun) -> RunRow:
        row = build_row(identity, run)
        return replace(row, outcome=None) if run.task_id == "odd" else row  # NOT NULL in every database

    monkeypatch.setattr("tasks.history.record.build_row", refuse)

    assert ForeignRunSearch().record_all(broker, [QUEUE], None) == 2

    assert {run.task_id for run in TaskRun.objects.all()} == {"t1", "t2"}
    assert get_history_status(QUEUE).invalid == 1


def test_nothing_is_read_while_no_go_worker_is_registered(broker: Broker):
    put(broker, "ok")
    end_as_asynq(broker, "ok", "completed")
    redis_of(broker).delete(keys.WORKERS)

    assert ForeignRunSearch().record_all(broker, [QUEUE], None) == 0
