"""What the scripts that end attempts append to the stream of their queue."""

import hashlib

import pytest

from runqy.broker.broker import Broker
from runqy.broker.duties.forwarder import forward_due
from runqy.broker.duties.pending_timeouts import archive_all_timed_out
from runqy.broker.duties.recoverer import LeaselessWatch, recover_lost
from runqy.broker.keys import QueueKeys
from runqy.broker.states import RunOutcome
from runqy.broker.streams.run_counters import read_run_counters
from runqy.broker.streams.run_log import (
    ERROR_MAX_BYTES,
    MAX_ENTRIES,
    MAX_ENTRY_BYTES,
    TRACEBACK_MAX_BYTES,
    EndedRun,
    RunInfo,
    cut_error,
    delete_stream,
    is_cut,
    make_details,
    read_runs,
    remove_runs,
)
from runqy.broker.tasks.cancel import cancel
from runqy.broker.tasks.enqueue import enqueue
from runqy.broker.tasks.finish import Completion, Failure, archive, complete, complete_all, requeue, retry
from runqy.broker.workers.redis_users import RedisUser, create_users, delete_users
from runqy.core.environment.connection_urls import RedisTarget
from runqy.errors import BrokerCommandRefused
from tests.support import environment
from tests.support.redis_client import redis_of
from tests.support.run_entries import make_entry
from tests.support.tasks import QUEUE, counters, fields, new_task, put, take, take_one
from tests.tasks.history.stream_status import read_stream_status


@pytest.fixture(params=["single", pytest.param("cluster", marks=pytest.mark.cluster)])
def broker(request: pytest.FixtureRequest) -> Broker:
    """Return a broker, once on a single server and once on the cluster; no database."""
    return request.getfixturevalue(f"{request.param}_broker")


def entries(broker: Broker) -> list:
    return list(broker.run(read_runs(QUEUE, limit=1000, now_ns=broker.now_ns())).entries)


def only_run(broker: Broker) -> EndedRun:
    (entry,) = entries(broker)
    assert entry.run is not None
    return entry.run


def counted(broker: Broker) -> dict[RunOutcome, int]:
    """Return what scripts counted for `/metrics`."""
    (run_counters,) = broker.run(read_run_counters([QUEUE]))
    return +run_counters.by_outcome()


def test_a_success_is_logged_with_its_times_worker_and_excerpts(broker: Broker):
    before_ns = broker.now_ns()
    put(broker, "t1", payload=b'{"order":17}')
    taken = take_one(broker)
    info = RunInfo(commit="abc")

    broker.run(complete(taken.lease, taken.message, b'{"ok":true}', now_ns=broker.now_ns(), info=info))

    run = only_run(broker)
    assert (run.task_id, run.outcome, run.is_final, run.attempt) == ("t1", RunOutcome.COMPLETED, True, 1)
    assert (run.worker_id, run.commit, run.run_id) == ("w1", "abc", taken.lease.token)
    assert (run.payload, run.result, run.error) == (b'{"order":17}', b'{"ok":true}', "")
    assert before_ns <= run.enqueued_ns == run.due_ns <= run.started_ns <= run.ended_ns <= broker.now_ns()


def test_a_success_without_retention_is_logged_although_its_task_is_deleted(broker: Broker):
    put(broker, "t1", retention_s=0)
    taken = take_one(broker)

    broker.run(complete(taken.lease, taken.message, b"1", now_ns=broker.now_ns()))

    assert (only_run(broker).task_id, only_run(broker).attempt) == ("t1", 1)


def test_the_successes_of_one_call_are_logged_each(broker: Broker):
    put(broker, "t1", "t2")
    taken = take(broker, 2)

    broker.run(complete_all([Completion(t.lease, t.message, b"1") for t in taken], now_ns=broker.now_ns()))

    assert [entry.run.task_id for entry in entries(broker)] == ["t1", "t2"]


def test_a_repeated_finish_is_logged_once(broker: Broker):
    put(broker, "t1")
    taken = take_one(broker)
    for _ in range(2):
        broker.run(complete(taken.lease, taken.message, b"1", now_ns=broker.now_ns()))

    assert only_run(broker).task_id == "t1"


def test_each_attempt_of_a_task_is_logged_and_the_last_one_is_final(broker: Broker):
    put(broker, "t1")
    first = take_one(broker)
    broker.run(retry(first.lease, first.message, Failure(error="E: 1", retry_at_s=0), now_ns=broker.now_ns()))
    redis_of(broker).rpush(QueueKeys(QUEUE).pending, "t1")
    redis_of(broker).zrem(QueueKeys(QUEUE).retry, "t1")
    second = take_one(broker)
    broker.run(archive(second.lease, second.message, error="E: 2", now_ns=broker.now_ns()))

    runs = [entry.run for entry in entries(broker)]
    assert [(r.outcome, r.is_final, r.attempt, r.error) for r in runs] == [
        (RunOutcome.RETRIED, False, 1, "E: 1"),
        (RunOutcome.FAILED, True, 2, "E: 2"),
    ]


def test_a_run_that_timed_out_is_logged_as_such_whether_or_not_it_is_retried(broker: Broker):
    put(broker, "t1", "t2")
    first, second = take(broker, 2)
    info = RunInfo(outcome=RunOutcome.TIMED_OUT)

    broker.run(retry(first.lease, first.message, Failure(error="e", retry_at_s=0), now_ns=broker.now_ns(), info=info))
    broker.run(archive(second.lease, second.message, error="e", now_ns=broker.now_ns(), info=info))

    assert [(e.run.outcome, e.run.is_final) for e in entries(broker)] == [
        (RunOutcome.TIMED_OUT, False),
        (RunOutcome.TIMED_OUT, True),
    ]


@pytest.mark.parametrize("end", ["retry", "requeue"])
def test_a_run_of_a_task_whose_cancellation_was_requested_is_logged_as_canceled(broker: Broker, end: str):
    put(broker, "t1")
    taken = take_one(broker)
    broker.run(cancel(QUEUE, "t1", now_ns=broker.now_ns()))

    if end == "retry":
        failure = Failure(error="e", retry_at_s=0)
        broker.run(retry(taken.lease, taken.message, failure, now_ns=broker.now_ns()))
    else:
        broker.run(requeue(taken.lease, taken.message, now_ns=broker.now_ns()))

    run = only_run(broker)
    assert (run.outcome, run.is_final, run.started_ns is not None) == (RunOutcome.CANCELED, True, True)


def test_requeuing_ends_no_attempt(broker: Broker):
    put(broker, "t1")
    broker.run(requeue(take_one(broker).lease, now_ns=broker.now_ns()))

    assert entries(broker) == []


def test_canceling_a_waiting_task_is_logged_without_an_attempt(broker: Broker):
    put(broker, "t1")

    for _ in range(2):
        broker.run(cancel(QUEUE, "t1", now_ns=broker.now_ns()))

    run = only_run(broker)
    assert (run.outcome, run.attempt, run.started_ns, run.is_final) == (RunOutcome.CANCELED, 0, None, True)
    assert not run.had_attempts
    assert run.due_ns == run.enqueued_ns
    assert counted(broker) == {RunOutcome.CANCELED: 1}


@pytest.mark.parametrize("found_by", ["dequeue", "forwarder"])
def test_a_task_that_a_worker_put_back_after_its_cancellation_is_logged_when_it_is_found(broker: Broker, found_by: str):
    put(broker, "t1", **({"process_at_s": broker.now_s() + 60} if found_by == "forwarder" else {}))
    keys = QueueKeys(QUEUE)
    redis_of(broker).hset(keys.task("t1"), "cancel", broker.now_ns())
    if found_by == "dequeue":
        assert take(broker) == []
    else:
        redis_of(broker).zadd(keys.scheduled, {"t1": 1})
        broker.run(forward_due(broker, [QUEUE]))

    run = only_run(broker)
    assert (run.task_id, run.outcome, run.attempt, run.is_final) == ("t1", RunOutcome.CANCELED, 0, True)
    assert (run.due_ns is not None) == (found_by == "dequeue")
    assert counted(broker) == {RunOutcome.CANCELED: 1}


def test_the_attempt_knows_since_when_its_task_had_been_due(broker: Broker):
    put(broker, "t1", process_at_s=broker.now_s() + 60)
    redis_of(broker).zadd(QueueKeys(QUEUE).scheduled, {"t1": 1})
    before_ns = broker.now_ns()
    broker.run(forward_due(broker, [QUEUE]))
    taken = take_one(broker)

    broker.run(complete(taken.lease, taken.message, b"1", now_ns=broker.now_ns()))

    run = only_run(broker)
    assert run.enqueued_ns < before_ns <= run.due_ns <= run.started_ns


def test_a_task_that_waited_too_long_is_logged_as_expired(broker: Broker):
    broker.run(enqueue(new_task("t1"), now_ns=broker.now_ns() - 60 * 10**9, is_cluster=broker.is_cluster))

    broker.run(archive_all_timed_out(broker, {QUEUE: 5}))

    run = only_run(broker)
    assert (run.outcome, run.attempt, run.is_final) == (RunOutcome.EXPIRED, 0, True)
    assert "pending_timeout of 5 s" in run.error
    assert run.ended_ns - run.due_ns >= 60 * 10**9
    assert counted(broker) == {RunOutcome.EXPIRED: 1}


def test_a_task_that_is_dequeued_after_its_deadline_expires_without_an_attempt(broker: Broker):
    put(broker, "t1")
    taken, failure = take_one(broker), Failure(error="e", retry_at_s=0)
    broker.run(retry(taken.lease, taken.message, failure, now_ns=broker.now_ns()))
    broker.run(forward_due(broker, [QUEUE]))
    taken = take_one(broker)

    info = RunInfo(outcome=RunOutcome.EXPIRED)
    request = archive(taken.lease, taken.message, error="deadline exceeded", now_ns=broker.now_ns(), info=info)
    broker.run(request)
    broker.run(request)

    run = entries(broker)[1].run
    assert (run.outcome, run.attempt, run.had_attempts, run.is_final) == (RunOutcome.EXPIRED, 0, True, True)
    assert (run.started_ns, run.worker_id, run.payload) == (None, "", b'{"n":1}')
    assert len(entries(broker)) == 2
    assert counters(broker) == (1, 1)
    left = fields(broker, "t1")
    assert (left["state"], left["attempts"], left.keys() & {"started", "worker"}) == (b"archived", b"1", set())


def test_the_attempt_of_a_lost_worker_is_logged_with_its_token(broker: Broker):
    put(broker, "t1")
    taken = take_one(broker)
    redis_of(broker).zadd(QueueKeys(QUEUE).lease, {"t1": 1})

    broker.run(recover_lost(broker, [QUEUE], LeaselessWatch(), grace_s=0))

    run = only_run(broker)
    assert (run.outcome, run.is_final, run.run_id) == (RunOutcome.LOST, False, taken.lease.token)
    assert (run.error, run.payload, run.worker_id) == ("asynq: task lease expired", b'{"n":1}', "w1")
    assert counted(broker) == {RunOutcome.LOST: 1}


def test_a_canceled_run_of_a_lost_worker_is_logged_and_counted_as_canceled(broker: Broker):
    put(broker, "t1")
    take_one(broker)
    broker.run(cancel(QUEUE, "t1", now_ns=broker.now_ns()))
    redis_of(broker).zadd(QueueKeys(QUEUE).lease, {"t1": 1})

    broker.run(recover_lost(broker, [QUEUE], LeaselessWatch(), grace_s=0))

    assert (only_run(broker).outcome, only_run(broker).is_final) == (RunOutcome.CANCELED, True)
    assert counted(broker) == {RunOutcome.CANCELED: 1}


def test_hidden_payloads_and_results_are_not_logged(broker: Broker):
    put(broker, "t1")
    taken = take_one(broker)

    info = RunInfo(hides_payload=True)
    broker.run(complete(taken.lease, taken.message, b'"secret"', now_ns=broker.now_ns(), info=info))

    assert (only_run(broker).payload, only_run(broker).result) == (None, None)


def test_entries_are_bounded_whatever_the_sizes(broker: Broker):
    put(broker, "t" * 255, payload=b"x" * 100_000, headers={"x-request-id": "r" * 1000})
    taken = take(broker, worker_id="w" * 255)[0]
    info = RunInfo(commit="c" * 500, error_class="m" * 200)
    error = "Traceback (most recent call last):\n" + "é" * 5000 + "\nValueError: no"

    broker.run(archive(taken.lease, taken.message, error=error, now_ns=broker.now_ns(), info=info))

    ((_, fields),) = redis_of(broker).xrange(QueueKeys(QUEUE).runs)
    assert sum(map(len, [*fields, *fields.values()])) <= MAX_ENTRY_BYTES
    assert ERROR_MAX_BYTES - 100 <= len(only_run(broker).error.encode()) <= MAX_ENTRY_BYTES
    assert only_run(broker).error.endswith("\nValueError: no")
    assert only_run(broker).error_class == "m" * 200


@pytest.mark.parametrize("length", [10, 1300, 5000])
def test_a_traceback_is_whole_where_an_entry_has_room(single_broker: Broker, length: int):
    put(single_broker, "t1")
    taken = take_one(single_broker)
    error = f"Traceback (most recent call last):\n{'  x' * (length // 3)}\nValueError: no"

    single_broker.run(archive(taken.lease, taken.message, error=error, now_ns=single_broker.now_ns()))

    kept = only_run(single_broker).error
    assert (kept == error, is_cut(kept)) == (length < 1400, length > 1400)
    assert len(kept.encode()) <= TRACEBACK_MAX_BYTES
    assert kept.endswith("\nValueError: no")


@pytest.mark.parametrize("letter", ["x", "é", "€", "🙂"])
def test_a_cut_message_is_marked(letter: str):
    text = f"ValueError: {letter * 1000}"

    kept = cut_error(text)

    assert len(kept.encode()) <= ERROR_MAX_BYTES
    assert text.startswith(kept.removesuffix("…"))
    assert is_cut(kept)
    assert not is_cut(text)
    assert not is_cut("short …")
    assert cut_error(kept) == kept


@pytest.mark.parametrize("key", ["wrong type", "missing permission"])
def test_a_task_ends_even_if_the_log_cannot_be_written(single_broker: Broker, key: str):
    put(single_broker, "t1")
    taken = take_one(single_broker)
    if key == "wrong type":
        redis_of(single_broker).set(QueueKeys(QUEUE).runs, "x")
    else:
        redis_of(single_broker).execute_command("ACL", "SETUSER", "default", "-xadd")
    try:
        single_broker.run(complete(taken.lease, taken.message, b"1", now_ns=single_broker.now_ns()))
    finally:
        redis_of(single_broker).execute_command("ACL", "SETUSER", "default", "+xadd")

    assert redis_of(single_broker).zscore(QueueKeys(QUEUE).completed, "t1") is not None
    assert single_broker.run(read_runs(QUEUE, limit=1, now_ns=1)).is_stream == (key != "wrong type")
    single_broker.run(delete_stream(QUEUE))


VALID = {
    "task": "t1",
    "run": "r1",
    "outcome": "completed",
    "final": "1",
    "ended": "NOW",
    "attempt": "1",
    "details": make_details(None),
}


@pytest.mark.parametrize(
    "changes",
    [
        {"task": ""},
        {"task": b"\xff"},
        {"task": "a\0b"},
        {"task": "x" * 300},
        {"run": ""},
        {"run": "x" * 100},
        {"outcome": "perfect"},
        {"ended": "1"},
        {"ended": "9" * 19},
        {"ended": "-5"},
        {"ended": "9" * 5000},
        {"attempt": "many"},
        {"attempt": str(2**31)},
        {"details": b"\x00garbage"},
        {"details": b"\x91" * 1500},
        {"worker": "x" * 5000},
    ],
)
def test_entries_that_no_script_of_ours_appends_are_invalid(single_broker: Broker, changes: dict):
    fields = {k: str(single_broker.now_ns()) if v == "NOW" else v for k, v in (VALID | changes).items()}
    redis_of(single_broker).xadd(QueueKeys(QUEUE).runs, make_entry(fields))

    ((invalid,)) = entries(single_broker)

    assert invalid.run is None


def test_an_entry_needs_no_more_than_its_required_fields(single_broker: Broker):
    redis_of(single_broker).xadd(QueueKeys(QUEUE).runs, make_entry(VALID | {"ended": str(single_broker.now_ns())}))

    assert only_run(single_broker).task_id == "t1"


def test_removing_entries_reports_what_is_left_and_what_was_ever_appended(single_broker: Broker):
    key, now_ns = QueueKeys(QUEUE).runs, single_broker.now_ns()
    pipe = redis_of(single_broker).pipeline()
    for n in range(1000):
        pipe.xadd(key, {"n": n}, maxlen=300, approximate=False)
    pipe.execute()

    (oldest, *_) = single_broker.run(read_runs(QUEUE, limit=10, now_ns=now_ns)).entries
    after_one = single_broker.run(remove_runs(QUEUE, oldest.id))

    assert (after_one.length, after_one.appended) == (299, 1000)
    assert single_broker.run(read_stream_status(QUEUE)) == after_one
    assert single_broker.run(read_stream_status("nothing")).appended == 0


def test_the_scripts_bound_the_stream(single_broker: Broker):
    key = QueueKeys(QUEUE).runs
    pipe = redis_of(single_broker).pipeline()
    for n in range(MAX_ENTRIES + 500):
        pipe.xadd(key, {"n": n})
    pipe.execute()
    put(single_broker, "t1")
    taken = take_one(single_broker)

    single_broker.run(complete(taken.lease, taken.message, b"1", now_ns=single_broker.now_ns()))

    assert redis_of(single_broker).xlen(key) <= MAX_ENTRIES + 100


def test_a_worker_with_a_redis_user_of_its_own_logs_its_runs_and_removes_none(single_broker: Broker):
    user = RedisUser(
        name="runqy-w-test",
        password_sha256=hashlib.sha256(b"secret").hexdigest(),
        instance_id="i",
        worker_ids=("w1",),
        redis_queues=(QUEUE,),
    )
    target = RedisTarget(
        addresses=(("127.0.0.1", environment.SERVER.port),), username="runqy-w-test", password="secret"
    )
    single_broker.run(create_users(single_broker, [user], target=target))
    put(single_broker, "t1", "t2")
    worker = Broker(target)
    first, second = take(worker, 2)

    worker.run(complete(first.lease, first.message, b"1", now_ns=worker.now_ns()))
    worker.run(retry(second.lease, second.message, Failure(error="e", retry_at_s=0), now_ns=worker.now_ns()))

    assert [entry.run.outcome for entry in entries(single_broker)] == [RunOutcome.COMPLETED, RunOutcome.RETRIED]
    for refused in (remove_runs(QUEUE, (2**60, 0)), read_runs(QUEUE, limit=1, now_ns=1)):
        with pytest.raises(BrokerCommandRefused):
            worker.run(refused)
    worker.close()
    single_broker.run(delete_users(single_broker, ["runqy-w-test"]))
