"""Moving ended attempts from Redis to the database, each once."""

import itertools
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from django.db import OperationalError, connection
from django.test.utils import CaptureQueriesContext
from msgspec.structs import replace

from queues.queries import get_fresh_catalog
from runqy.broker.broker import Broker
from runqy.broker.duties.forwarder import forward_due
from runqy.broker.duties.pending_timeouts import archive_all_timed_out
from runqy.broker.keys import QueueKeys
from runqy.broker.states import RunOutcome
from runqy.broker.streams.run_counters import read_run_counters
from runqy.broker.streams.run_log import EndedRun, RunEntry, RunInfo, remove_runs
from runqy.broker.tasks.cancel import cancel
from runqy.broker.tasks.finish import Failure, archive, complete, retry
from runqy.maintenance.models import FailedRow
from tasks.duties import RunHistory
from tasks.history.record import RunRecorder, store_entries
from tasks.history.rows import QueueIdentity, RunRow, build_row
from tasks.models import QueueHour, QueueMinute, RunStream, TaskRun
from tasks.transactions import BatchSize
from tests.support.redis_client import redis_of
from tests.support.run_entries import make_entry, split_entry
from tests.support.runs import make_run
from tests.support.tasks import QUEUE, put, take, take_one
from tests.tasks.history.history_status import get_history_status
from tests.tasks.history.stream_status import read_stream_status

_numbers = itertools.count()


def finish(broker: Broker, count: int, queue: str = QUEUE, *, fails: bool = False) -> None:
    """Put tasks through an attempt each."""
    put(broker, *(f"{queue}-{next(_numbers)}" for _ in range(count)), queue=queue)
    for taken in take(broker, count, queue):
        if fails:
            broker.run(archive(taken.lease, taken.message, error="ValueError: no", now_ns=broker.now_ns()))
        else:
            broker.run(complete(taken.lease, taken.message, b"1", now_ns=broker.now_ns()))


def record(broker: Broker, *queues: str, recorder: RunRecorder | None = None) -> int:
    return (recorder or RunRecorder()).record_all(broker, queues or (QUEUE,), None)


def counted(outcome: str = "completed") -> int:
    return sum(QueueMinute.objects.values_list(outcome, flat=True))


def test_the_duty_moves_runs_and_leaves_the_stream_empty(broker: Broker):
    finish(broker, 3)
    finish(broker, 2, "video", fails=True)

    RunHistory().run_tick(broker)

    assert TaskRun.objects.filter(redis_queue=QUEUE, outcome="completed").count() == 3
    assert TaskRun.objects.filter(redis_queue="video", outcome="failed", error_class="ValueError").count() == 2
    assert (counted("completed"), counted("failed"), counted("enqueued"), counted("started")) == (3, 2, 5, 5)
    for queue in (QUEUE, "video"):
        status = broker.run(read_stream_status(queue))
        assert (status.length, get_history_status(queue).dropped) == (0, 0)


def test_streams_of_more_queues_than_are_read_at_once_are_emptied(broker: Broker, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("runqy.maintenance.streams.QUEUES_MAX", 2)
    monkeypatch.setattr("runqy.maintenance.streams.READ_MAX", 2)
    monkeypatch.setattr("runqy.maintenance.streams.READ_MIN", 2)
    queues = [f"q{number}" for number in range(5)]
    for number, queue in enumerate(queues):
        finish(broker, number, queue)

    assert record(broker, *queues) == 10

    assert [TaskRun.objects.filter(redis_queue=queue).count() for queue in queues] == [0, 1, 2, 3, 4]


def test_runs_of_many_queues_share_a_transaction_and_are_counted_by_queue(broker: Broker):
    for number in range(1, 5):
        finish(broker, number, f"q{number}")
    recorder = RunRecorder(BatchSize(8))
    with CaptureQueriesContext(connection) as queries:
        record(broker, *(f"q{number}" for number in range(1, 5)), recorder=recorder)

    assert sum(query["sql"].startswith('INSERT INTO "tasks_taskrun" ') for query in queries) == 2
    for number in range(1, 5):
        assert TaskRun.objects.filter(redis_queue=f"q{number}", queue=f"q{number}").count() == number
        assert get_history_status(f"q{number}").recorded == number
        for model in (QueueMinute, QueueHour):
            assert sum(model.objects.filter(redis_queue=f"q{number}").values_list("completed", flat=True)) == number


@pytest.mark.skipif(connection.vendor != "sqlite", reason="PostgreSQL has checkpoints of its own")
def test_the_log_of_writes_is_copied_to_the_database_file_between_transactions(broker: Broker):
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA wal_autocheckpoint=0")
    finish(broker, 1, "copied-by-a-checkpoint")

    record(broker, "copied-by-a-checkpoint")

    assert b"copied-by-a-checkpoint" in Path(connection.settings_dict["NAME"]).read_bytes()
    connection.close()


def test_many_batches_are_moved_in_one_tick(broker: Broker):
    finish(broker, 95)

    read = record(broker, recorder=RunRecorder(BatchSize(30)))

    assert (read, TaskRun.objects.count(), counted()) == (95, 95, 95)


def test_entries_that_were_stored_but_not_removed_are_stored_once(broker: Broker, monkeypatch: pytest.MonkeyPatch):
    finish(broker, 3)
    monkeypatch.setattr("tasks.history.record.remove_runs", fail)
    with pytest.raises(KeyboardInterrupt):
        record(broker)
    monkeypatch.undo()
    finish(broker, 1)

    record(broker)

    assert (TaskRun.objects.count(), counted()) == (4, 4)
    assert broker.run(read_stream_status(QUEUE)).length == 0
    assert get_history_status(QUEUE).recorded == 4


def fail(*_: object) -> None:
    raise KeyboardInterrupt


def move_into_one_second(broker: Broker) -> None:
    """Let the runs have ended in one second of Redis's clock, however long that took."""
    stream = QueueKeys(QUEUE).runs
    entries = redis_of(broker).xrange(stream)
    redis_of(broker).delete(stream)
    for number, (_, fields) in enumerate(entries):
        redis_of(broker).xadd(stream, fields, id=f"1800000000000-{number + 1}")


def test_successes_above_the_rate_are_counted_once_even_if_they_are_read_twice(
    broker: Broker, settings, monkeypatch: pytest.MonkeyPatch
):
    settings.RUNQY_HISTORY_MAX_RATE = 2
    monkeypatch.setattr(broker, "now_ns", lambda: 1_800_000_000 * 10**9)
    finish(broker, 10)
    finish(broker, 4, fails=True)
    move_into_one_second(broker)
    monkeypatch.setattr("tasks.history.record.remove_runs", fail)
    with pytest.raises(KeyboardInterrupt):
        record(broker)
    monkeypatch.setattr("tasks.history.record.remove_runs", remove_runs)

    record(broker)

    assert (TaskRun.objects.filter(outcome="completed").count(), counted("completed")) == (2, 10)
    assert (TaskRun.objects.filter(outcome="failed").count(), counted("failed")) == (4, 4)
    assert get_history_status().counted_only == 8


def test_processes_that_record_at_once_store_each_run_once(broker: Broker):
    finish(broker, 300)
    finish(broker, 200, "video", fails=True)
    errors: list[BaseException] = []

    def work() -> None:
        try:
            while record(broker, QUEUE, "video", recorder=RunRecorder(BatchSize(20))):
                pass
        except OperationalError as error:  # SQLite's lock
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    record(broker, QUEUE, "video")

    assert errors == []
    assert TaskRun.objects.count() == 500
    assert (counted("completed"), counted("failed")) == (300, 200)
    assert get_history_status().recorded == 500


def test_a_run_that_is_reported_again_after_a_failover_is_stored_once(broker: Broker):
    finish(broker, 1)
    ((_, fields),) = redis_of(broker).xrange(QueueKeys(QUEUE).runs)
    record(broker)
    redis_of(broker).xadd(QueueKeys(QUEUE).runs, fields)

    record(broker)

    assert (TaskRun.objects.count(), counted()) == (1, 1)


def test_runs_of_a_redis_whose_clock_went_back_are_stored(broker: Broker):
    finish(broker, 1)
    ((_, fields),) = redis_of(broker).xrange(QueueKeys(QUEUE).runs)
    record(broker)
    redis_of(broker).delete(QueueKeys(QUEUE).runs)
    redis_of(broker).xadd(QueueKeys(QUEUE).runs, make_entry(split_entry(fields) | {"run": "other"}), id="1-1")

    record(broker)

    assert TaskRun.objects.filter(run_id="other").count() == 1
    assert broker.run(read_stream_status(QUEUE)).length == 0


def test_an_invalid_entry_is_counted_and_does_not_block(broker: Broker):
    redis_of(broker).xadd(QueueKeys(QUEUE).runs, {"junk": "x"})
    finish(broker, 2)
    redis_of(broker).xadd(QueueKeys(QUEUE).runs, make_entry({"task": "t", "outcome": "?"}))

    record(broker)

    status = get_history_status(QUEUE)
    assert (status.recorded, status.invalid, TaskRun.objects.count()) == (2, 2, 2)
    assert broker.run(read_stream_status(QUEUE)).length == 0


def test_an_entry_that_the_database_refuses_is_counted_and_does_not_block(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
):
    finish(broker, 3)
    poison = split_entry(redis_of(broker).xrange(QueueKeys(QUEUE).runs)[1][1])["task"].decode()

    def refuse(identity: QueueIdentity, run: EndedRun) -> RunRow:
        row = build_row(identity, run)
        return replace(row, outcome=None) if run.task_id == poison else row  # NOT NULL in every database

    monkeypatch.setattr("tasks.history.record.build_row", refuse)

    record(broker)

    status = get_history_status(QUEUE)
    assert (status.recorded, status.invalid, TaskRun.objects.count()) == (2, 1, 2)


def test_a_key_that_is_no_stream_is_deleted(broker: Broker):
    redis_of(broker).set(QueueKeys(QUEUE).runs, "x")
    finish(broker, 1)
    record(broker)
    finish(broker, 1)

    record(broker)

    assert TaskRun.objects.count() == 1


def test_drops_of_a_full_stream_are_counted_once_and_shown(broker: Broker):
    finish(broker, 1)
    record(broker)
    for _ in range(10):
        redis_of(broker).xadd(QueueKeys(QUEUE).runs, {"n": 1}, maxlen=4, approximate=False)
    record(broker)
    record(broker)

    assert get_history_status(QUEUE).dropped == 6
    assert counted("dropped") == 6
    (counters,) = broker.run(read_run_counters([QUEUE]))
    assert counters["dropped"] == 6
    assert RunStream.objects.get().dropped_at is not None


def test_drops_are_counted_again_after_redis_lost_its_data(broker: Broker):
    for n in (5, 3):
        for _ in range(n + 1):
            redis_of(broker).xadd(QueueKeys(QUEUE).runs, {"n": 1}, maxlen=1, approximate=False)
        record(broker)
        redis_of(broker).flushall()

    assert get_history_status(QUEUE).dropped == 8


def test_while_the_database_is_away_runs_stay_in_redis(broker: Broker, monkeypatch: pytest.MonkeyPatch):
    finish(broker, 2)

    def away(*_: object, **__: object) -> None:
        raise OperationalError("away")

    monkeypatch.setattr("tasks.history.record.store_entries", away)
    RunHistory().run_tick(broker)
    assert broker.run(read_stream_status(QUEUE)).length == 2
    monkeypatch.undo()

    RunHistory().run_tick(broker)

    assert TaskRun.objects.count() == 2


@pytest.mark.parametrize("hidden_by", ["queue", "setting", "worker", "unknown"])
def test_hidden_payloads_are_not_in_the_database(
    broker: Broker, settings, hidden_by: str, save_queue: Callable[..., None]
):
    save_queue(QUEUE, hide_payloads=hidden_by == "queue")
    settings.RUNQY_HIDE_PAYLOADS = hidden_by == "setting"
    put(broker, "ok", "bad")
    ok, bad = take(broker, 2)
    info = RunInfo(hides_payload=hidden_by == "worker")
    traceback = 'Traceback (most recent call last):\n  File "a.py", line 1\nValueError: no'
    broker.run(complete(ok.lease, ok.message, b'"r"', now_ns=broker.now_ns(), info=info))
    broker.run(archive(bad.lease, bad.message, error=traceback, now_ns=broker.now_ns(), info=info))

    RunRecorder().record_all(broker, [QUEUE], None if hidden_by == "unknown" else get_fresh_catalog(max_age_s=0))

    assert [run.payload + run.result for run in TaskRun.objects.all()] == ["", ""]
    run = TaskRun.objects.get(task_id="bad")
    assert (run.error_class, run.error_message) == ("ValueError", "no")
    assert (run.traceback == "") == (hidden_by != "worker")


def test_payloads_that_are_not_hidden_are_stored(broker: Broker, save_queue: Callable[..., None]):
    save_queue(QUEUE)
    finish(broker, 1)

    RunRecorder().record_all(broker, [QUEUE], get_fresh_catalog(max_age_s=0))

    assert [(run.payload, run.result) for run in TaskRun.objects.all()] == [('{"n":1}', "1")]


def test_the_runs_of_a_sub_queue_name_their_queue(broker: Broker, save_queue: Callable[..., None]):
    save_queue("mail", "high:1")
    finish(broker, 1, "mail_high")

    RunRecorder().record_all(broker, ["mail_high"], get_fresh_catalog(max_age_s=0))

    run = TaskRun.objects.get()
    assert (run.queue, run.sub_queue, run.redis_queue) == ("mail", "high", "mail_high")
    assert QueueMinute.objects.filter(queue="mail", redis_queue="mail_high", completed=1).exists()


def cancel_waiting(broker: Broker) -> None:
    broker.run(cancel(QUEUE, "t1", now_ns=broker.now_ns()))


def expire_in_the_queue(broker: Broker) -> None:
    broker.run(forward_due(broker, [QUEUE]))
    redis_of(broker).hset(QueueKeys(QUEUE).task("t1"), "pending_since", broker.now_ns() - 60 * 10**9)
    broker.run(archive_all_timed_out(broker, {QUEUE: 5}))


def expire_at_a_worker(broker: Broker) -> None:
    broker.run(forward_due(broker, [QUEUE]))
    taken, info = take_one(broker), RunInfo(outcome=RunOutcome.EXPIRED)
    broker.run(archive(taken.lease, taken.message, error="deadline exceeded", now_ns=broker.now_ns(), info=info))


@pytest.mark.parametrize("end", [cancel_waiting, expire_in_the_queue, expire_at_a_worker])
def test_a_task_that_ends_without_its_next_attempt_is_counted_as_enqueued_once(
    broker: Broker, end: Callable[[Broker], None]
):
    put(broker, "t1")
    taken, failure = take_one(broker), Failure(error="e", retry_at_s=0)
    broker.run(retry(taken.lease, taken.message, failure, now_ns=broker.now_ns()))
    end(broker)

    record(broker)

    assert [run.attempt for run in TaskRun.objects.order_by("id")] == [1, 0]
    assert [run.is_final for run in TaskRun.objects.order_by("id")] == [False, True]
    assert counted("enqueued") == 1


@pytest.mark.parametrize("end", [cancel_waiting, expire_in_the_queue, expire_at_a_worker])
def test_a_task_that_ends_without_any_attempt_is_counted_as_enqueued(broker: Broker, end: Callable[[Broker], None]):
    put(broker, "t1")
    end(broker)

    record(broker)

    assert [run.attempt for run in TaskRun.objects.all()] == [0]
    assert counted("enqueued") == 1


@pytest.mark.parametrize("state", ["scheduled", "retry"])
def test_a_task_that_is_cancelled_before_it_is_due_has_not_waited(broker: Broker, state: str):
    later_s = broker.now_s() + 600
    put(broker, "t1", process_at_s=later_s if state == "scheduled" else None)
    if state == "retry":
        taken, failure = take_one(broker), Failure(error="e", retry_at_s=later_s)
        broker.run(retry(taken.lease, taken.message, failure, now_ns=broker.now_ns()))
    broker.run(cancel(QUEUE, "t1", now_ns=broker.now_ns()))

    record(broker)

    assert TaskRun.objects.get(is_final=True).wait_ms is None


def test_a_task_that_is_cancelled_while_it_is_pending_has_waited_since_it_was_due(broker: Broker):
    put(broker, "t1")
    redis_of(broker).hset(QueueKeys(QUEUE).task("t1"), "pending_since", broker.now_ns() - 60 * 10**9)
    broker.run(cancel(QUEUE, "t1", now_ns=broker.now_ns()))

    record(broker)

    assert TaskRun.objects.get().wait_ms >= 60_000


@pytest.mark.django_db
def test_the_rate_limit_holds_for_workers_whose_clocks_differ():
    second_ns = 1_790_000_000 * 10**9
    runs = [RunEntry((1_790_000_000_000, n), make_run(ended_ns=second_ns + n % 2 * 10**9)) for n in range(20)]
    identity = QueueIdentity(redis_queue=QUEUE, queue=QUEUE)

    store_entries([(identity, run) for run in runs], max_rate=4)

    assert (TaskRun.objects.count(), counted(), get_history_status(QUEUE).counted_only) == (4, 20, 16)


def test_runs_that_cannot_be_stored_stay_in_their_queue_and_hold_up_no_other(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
):
    for queue in ("evil", QUEUE, "video"):
        finish(broker, 2, queue)

    def fail_for_evil(identity: QueueIdentity, run: EndedRun) -> RunRow:
        if identity.queue == "evil":
            raise KeyError("unexpected")
        return build_row(identity, run)

    monkeypatch.setattr("tasks.history.record.build_row", fail_for_evil)
    record(broker, "evil", QUEUE, "video")

    assert {TaskRun.objects.filter(redis_queue=queue).count() for queue in (QUEUE, "video")} == {2}
    assert broker.run(read_stream_status("evil")).length == 2
    assert FailedRow.objects.get().key == "evil"
