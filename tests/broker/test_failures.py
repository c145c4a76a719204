"""A task remembers its failed attempts."""

from runqy.broker.broker import Broker
from runqy.broker.duties.recoverer import LeaselessWatch, recover_lost
from runqy.broker.keys import QueueKeys
from runqy.broker.streams.run_log import RunInfo
from runqy.broker.tasks.archive_reasons import LEASE_EXPIRED, ErrorClass
from runqy.broker.tasks.cancel import cancel
from runqy.broker.tasks.finish import Failure, archive, retry
from runqy.broker.tasks.inspector import run_tasks
from runqy.broker.tasks.reader import find_task
from runqy.broker.tasks.record import TaskRecord
from tests.support.redis_client import redis_of
from tests.support.tasks import QUEUE, put, take

KEYS = QueueKeys(QUEUE)
TRACEBACK = "Traceback (most recent call last):\n" + '  File "shop.py", line 1\n' * 100 + 'ValueError: "no\tÄpfel"'


def fail(broker: Broker, worker_id: str, error: str, error_class: str = "", *, is_final: bool = False) -> None:
    """Let a worker run the task, and fail."""
    (taken,) = take(broker, worker_id=worker_id)
    info, now_ns = RunInfo(error_class=error_class), broker.now_ns()
    if is_final:
        broker.run(archive(taken.lease, taken.message, error=error, now_ns=now_ns, info=info))
        return
    failure = Failure(error=error, retry_at_s=broker.now_s())
    broker.run(retry(taken.lease, taken.message, failure, now_ns=now_ns, info=info))
    broker.run(run_tasks(QUEUE, ["t1"], now_ns=broker.now_ns()))


def read(broker: Broker) -> TaskRecord:
    return broker.run(find_task(broker, "t1", [QUEUE]))


def test_each_failed_attempt_is_remembered_with_its_worker_and_error(broker: Broker) -> None:
    put(broker, "t1")
    fail(broker, "w1", TRACEBACK, "builtins.ValueError")
    take(broker, worker_id="w 2")
    redis_of(broker).zadd(KEYS.lease, {"t1": 1})
    broker.run(recover_lost(broker, [QUEUE], LeaselessWatch(), grace_s=0))
    broker.run(run_tasks(QUEUE, ["t1"], now_ns=broker.now_ns()))
    fail(broker, 'w"3', "declined", "shop.Declined", is_final=True)

    first, lost, last = read(broker).failures
    assert (first.attempt, first.worker_id, first.error_class) == (1, "w1", "builtins.ValueError")
    assert first.error.startswith("Traceback (most")
    assert first.error.endswith('ValueError: "no\tÄpfel"')
    assert (lost.attempt, lost.worker_id) == (2, "w 2")
    assert (lost.error_class, lost.error) == (ErrorClass.WORKER_LOST, LEASE_EXPIRED)
    assert (last.attempt, last.worker_id, last.error_class, last.error) == (3, 'w"3', "shop.Declined", "declined")
    assert read(broker).error_class == "shop.Declined"


def test_the_oldest_texts_are_dropped_before_attempts_are(broker: Broker) -> None:
    put(broker, "t1", max_retry=100)
    for number in range(1, 61):
        fail(broker, f"w{number}", TRACEBACK, "builtins.ValueError")

    failures = read(broker).failures
    assert [each.attempt for each in failures] == list(range(11, 61))
    assert [bool(each.error) for each in failures[-4:]] == [False, True, True, True]
    assert all(each.error_class == "builtins.ValueError" for each in failures)
    assert len(redis_of(broker).hget(KEYS.task("t1"), "failures")) <= 8192


def test_the_class_belongs_to_the_last_error(broker: Broker) -> None:
    put(broker, "t1")
    fail(broker, "w1", TRACEBACK, "builtins.ValueError")
    assert read(broker).error_class == "builtins.ValueError"

    broker.run(cancel(QUEUE, "t1", now_ns=broker.now_ns()))

    assert (read(broker).error, read(broker).error_class) == ("canceled", "")


def test_a_finished_task_that_runs_again_forgets_its_attempts(broker: Broker) -> None:
    put(broker, "t1")
    fail(broker, "w1", "declined", "shop.Declined", is_final=True)

    broker.run(run_tasks(QUEUE, ["t1"], now_ns=broker.now_ns()))

    assert (read(broker).failures, read(broker).error_class) == ((), "")


def test_what_others_wrote_into_the_field_is_left_out(single_broker: Broker) -> None:
    put(single_broker, "t1")
    fail(single_broker, "w1", "declined", is_final=True)
    own = redis_of(single_broker).hget(KEYS.task("t1"), "failures")
    content = b'x\n["1","w"]\t""\t""\n' + b"[" * 5000 + b'\n["x","w","1"]\n["1","w","1"]\t7\n' + own
    redis_of(single_broker).hset(KEYS.task("t1"), "failures", content)

    assert [each.error for each in read(single_broker).failures] == ["declined"]
