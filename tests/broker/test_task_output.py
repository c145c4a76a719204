"""What tasks print: how it is kept by attempt, how much of it, and that it ends with the task, as chunks do."""

from collections.abc import Callable

import pytest

from runqy.broker.broker import Broker
from runqy.broker.constants import ARCHIVE_MAX_AGE_S
from runqy.broker.duties.forwarder import forward
from runqy.broker.duties.janitor import expire_archived, expire_completed
from runqy.broker.keys import QueueKeys
from runqy.broker.queues.deletion import delete_redis_queue
from runqy.broker.states import TaskState
from runqy.broker.tasks.chunks import ChunkBatch, read_chunks, write_chunks
from runqy.broker.tasks.finish import Failure, archive, complete, requeue, retry
from runqy.broker.tasks.inspector import delete_tasks, run_tasks
from runqy.broker.tasks.lease import Lease, LeasedTask
from runqy.broker.tasks.output import KEPT_S, MAX_BYTES, OutputChunk, TaskOutput, read_output, write_output
from runqy.broker.tasks.reader import find_task, read_statuses
from tests.support.redis_client import redis_of
from tests.support.tasks import QUEUE, fail, put, take, take_one

KEYS = QueueKeys(QUEUE)


def print_text(broker: Broker, lease: Lease, text: bytes, offset: int = 0, **options: object) -> bool:
    """Write what a run printed; returns whether it was accepted."""
    chunk = OutputChunk(lease=lease, offset=offset, text=text, **options)  # type: ignore[arg-type]
    return broker.run(write_output([chunk]))[0]


def stream(broker: Broker, taken: LeasedTask) -> None:
    broker.run(write_chunks([ChunkBatch(lease=taken.lease, run_number=1, offset=0, entries=(b"1",))]))


def output_of(broker: Broker, attempt: int | None = None, offset: int = 0) -> TaskOutput:
    return broker.run(read_output(QUEUE, "t1", attempt=attempt, offset=offset))


@pytest.fixture
def taken(broker: Broker) -> LeasedTask:
    """Return a task that runs."""
    put(broker, "t1", retention_s=3600)
    return take_one(broker)


def test_parts_are_joined(broker: Broker, taken: LeasedTask) -> None:
    print_text(broker, taken.lease, b"one\n")
    print_text(broker, taken.lease, b"two\n", offset=4)

    assert output_of(broker) == TaskOutput(attempts=(1,), attempt=1, text=b"one\ntwo\n")
    assert output_of(broker, offset=4).text == b"two\n"
    assert output_of(broker, offset=8).text == b""


def test_a_part_that_is_written_again_after_a_lost_reply_is_kept_once(broker: Broker, taken: LeasedTask) -> None:
    print_text(broker, taken.lease, b"one\n")
    print_text(broker, taken.lease, b"one\ntwo\n")

    assert output_of(broker).text == b"one\ntwo\n"


def test_a_gap_is_marked(broker: Broker, taken: LeasedTask) -> None:
    print_text(broker, taken.lease, b"one")
    print_text(broker, taken.lease, b"last\n", offset=1_000_003)

    assert output_of(broker).text == b"one\n[1000000 bytes dropped]\nlast\n"


def test_the_last_64_kib_are_kept_from_the_beginning_of_a_line(broker: Broker, taken: LeasedTask) -> None:
    line = b"x" * 99 + b"\n"
    for number in range(10):
        print_text(broker, taken.lease, line * 100, offset=number * 10_000)

    found = output_of(broker)

    assert found.text == line * (MAX_BYTES // 100)
    assert (found.offset, found.end) == (100_000 - len(found.text), 100_000)


def test_a_single_line_is_cut_to_64_kib(broker: Broker, taken: LeasedTask) -> None:
    print_text(broker, taken.lease, b"x" * 100_000)

    assert output_of(broker).text == b"x" * MAX_BYTES


def test_each_attempt_has_its_own_output(broker: Broker, taken: LeasedTask) -> None:
    print_text(broker, taken.lease, b"first\n")
    fail(broker, taken)
    again = take_one(broker)
    print_text(broker, again.lease, b"second\n", is_shared=True)

    assert output_of(broker) == TaskOutput(attempts=(1, 2), attempt=2, text=b"second\n", is_shared=True)
    assert output_of(broker, attempt=1) == TaskOutput(attempts=(1, 2), attempt=1, text=b"first\n")
    assert output_of(broker, attempt=3) == TaskOutput(attempts=(1, 2), attempt=3)


def test_the_output_of_the_last_five_attempts_is_kept(broker: Broker) -> None:
    put(broker, "t1", max_retry=20)
    for _ in range(7):
        taken = take_one(broker)
        print_text(broker, taken.lease, b"text\n")
        fail(broker, taken)

    assert output_of(broker).attempts == (3, 4, 5, 6, 7)
    fields = redis_of(broker).hkeys(KEYS.output("t1"))
    assert {name.partition(b":")[0] for name in fields} == {b"attempts", b"3", b"4", b"5", b"6", b"7"}


def test_an_interrupted_attempt_continues_its_output_with_a_mark(broker: Broker, taken: LeasedTask) -> None:
    print_text(broker, taken.lease, b"half")
    broker.run(requeue(taken.lease, now_ns=broker.now_ns()))
    again = take_one(broker)
    print_text(broker, again.lease, b"whole\n")

    assert output_of(broker).text == b"half\n[interrupted, and started again]\nwhole\n"
    assert output_of(broker).attempts == (1,)


def test_output_with_another_token_is_refused(broker: Broker, taken: LeasedTask) -> None:
    foreign = Lease(taken.lease.queue, taken.lease.task_id, "foreign")

    assert not print_text(broker, foreign, b"text", progress=b'{"current":1}')

    assert not redis_of(broker).exists(KEYS.output("t1"))
    assert broker.run(find_task(broker, "t1", [QUEUE])).progress is None


def test_output_is_accepted_after_the_end_and_not_once_the_task_is_pending_again(
    broker: Broker, taken: LeasedTask
) -> None:
    failure = Failure(error="boom", retry_at_s=broker.now_s() - 1)
    broker.run(retry(taken.lease, taken.message, failure, now_ns=broker.now_ns()))
    is_accepted = print_text(broker, taken.lease, b"late\n")
    broker.run(forward(QUEUE, TaskState.RETRY, now_ns=broker.now_ns()))

    assert is_accepted
    assert not print_text(broker, taken.lease, b"too late\n", offset=5)
    assert output_of(broker).text == b"late\n"


def test_output_expires_after_its_task(broker: Broker, taken: LeasedTask) -> None:
    kept_s = 100 * 24 * 3600
    print_text(broker, taken.lease, b"text\n", retention_s=kept_s)

    assert KEPT_S + kept_s - 60 < redis_of(broker).ttl(KEYS.output("t1")) <= KEPT_S + kept_s


def test_output_of_another_producers_task_lives_as_long_as_it_may_be_archived(
    broker: Broker, taken: LeasedTask
) -> None:
    redis_of(broker).hdel(KEYS.task("t1"), "ttl_archived")
    print_text(broker, taken.lease, b"text\n")

    assert redis_of(broker).ttl(KEYS.output("t1")) > ARCHIVE_MAX_AGE_S


def test_written_output_changes_the_status(broker: Broker, taken: LeasedTask) -> None:
    before = broker.run(read_statuses([(QUEUE, "t1")]))
    print_text(broker, taken.lease, b"text\n")

    assert broker.run(read_statuses([(QUEUE, "t1")])) != before


def test_progress_is_stored_and_cleared_by_the_next_run(broker: Broker, taken: LeasedTask) -> None:
    print_text(broker, taken.lease, b"", progress=b'{"current":3,"total":10,"message":"m"}')
    seen = broker.run(find_task(broker, "t1", [QUEUE])).progress
    fail(broker, taken)
    take_one(broker)

    assert seen is not None
    assert (seen.current, seen.total, seen.message) == (3, 10, "m")
    assert broker.run(find_task(broker, "t1", [QUEUE])).progress is None
    assert not redis_of(broker).exists(KEYS.output("t1"))


@pytest.mark.parametrize("content", [b"no json", b"[]", b'{"current":-1}', b'{"current":"1"}', b"\xff", b"[" * 10_000])
def test_invalid_progress_reads_as_none(single_broker: Broker, content: bytes) -> None:
    put(single_broker, "t1")
    redis_of(single_broker).hset(KEYS.task("t1"), "progress", content)

    assert single_broker.run(find_task(single_broker, "t1", [QUEUE])).progress is None


def test_an_output_of_another_type_reads_as_none(single_broker: Broker) -> None:
    redis_of(single_broker).set(KEYS.output("t1"), "a worker's")

    assert output_of(single_broker) == TaskOutput()


def test_an_output_of_another_type_is_replaced(broker: Broker, taken: LeasedTask) -> None:
    print_text(broker, taken.lease, b"one\n")
    redis_of(broker).delete(KEYS.output("t1"))
    redis_of(broker).set(KEYS.output("t1"), "a worker's")

    assert print_text(broker, taken.lease, b"two\n", offset=4)

    assert output_of(broker).text == b"[4 bytes dropped]\ntwo\n"


def _archive(broker: Broker, taken: LeasedTask) -> None:
    broker.run(archive(taken.lease, taken.message, error="boom", now_ns=broker.now_ns()))


def _complete(broker: Broker, taken: LeasedTask, *, now_ns: int | None = None) -> None:
    broker.run(complete(taken.lease, taken.message, b"1", now_ns=now_ns or broker.now_ns()))


def _complete_and_delete(broker: Broker, taken: LeasedTask) -> None:
    taken.message.retention = 0
    _complete(broker, taken)


def _delete(broker: Broker, taken: LeasedTask) -> None:
    _complete(broker, taken)
    broker.run(delete_tasks(QUEUE, ["t1"]))


def _expire_completed(broker: Broker, taken: LeasedTask) -> None:
    _complete(broker, taken, now_ns=1)
    broker.run(expire_completed(QUEUE, now_ns=broker.now_ns()))


def _expire_archived(broker: Broker, taken: LeasedTask) -> None:
    _archive(broker, taken)
    broker.run(expire_archived(QUEUE, now_ns=broker.now_ns() + 10**15, default_ttl_s=1))


def _trim_archive(broker: Broker, taken: LeasedTask) -> None:
    _archive(broker, taken)
    put(broker, "t2")
    other = take_one(broker)
    broker.run(archive(other.lease, other.message, error="boom", now_ns=broker.now_ns() + 10**9, max_archived=1))


def _delete_queue(broker: Broker, taken: LeasedTask) -> None:
    _complete(broker, taken)
    delete_redis_queue(broker, QUEUE)


def _run_again(broker: Broker, taken: LeasedTask) -> None:
    _complete(broker, taken)
    broker.run(run_tasks(QUEUE, ["t1"], now_ns=broker.now_ns()))


@pytest.mark.parametrize(
    "end",
    [
        _complete_and_delete,
        _delete,
        _expire_completed,
        _expire_archived,
        _trim_archive,
        _delete_queue,
        _run_again,
    ],
)
def test_output_and_chunks_are_deleted_with_their_task(
    broker: Broker, taken: LeasedTask, end: Callable[[Broker, LeasedTask], None]
) -> None:
    print_text(broker, taken.lease, b"text\n")
    stream(broker, taken)

    end(broker, taken)

    assert not redis_of(broker).exists(KEYS.output("t1"), KEYS.chunks("t1"))


@pytest.mark.parametrize("end", [_archive, _complete])
def test_output_and_chunks_are_kept_with_a_finished_task(
    broker: Broker, taken: LeasedTask, end: Callable[[Broker, LeasedTask], None]
) -> None:
    print_text(broker, taken.lease, b"text\n")
    stream(broker, taken)

    end(broker, taken)

    assert output_of(broker).text == b"text\n"
    assert broker.run(read_chunks(QUEUE, "t1")).entries == (b"1",)


def _delete_with_asynq(broker: Broker, taken: LeasedTask) -> None:
    """Delete a task as asynq's Inspector, which knows no output."""
    _archive(broker, taken)
    redis_of(broker).zrem(KEYS.archived, "t1")
    redis_of(broker).delete(KEYS.task("t1"))


def test_a_task_with_the_id_of_a_deleted_one_shows_only_its_own_output(broker: Broker, taken: LeasedTask) -> None:
    print_text(broker, taken.lease, b"old\n")
    _delete_with_asynq(broker, taken)

    put(broker, "t1")
    before = output_of(broker)
    print_text(broker, take_one(broker).lease, b"new\n")

    assert before == TaskOutput()
    assert output_of(broker) == TaskOutput(attempts=(1,), attempt=1, text=b"new\n")


def test_output_of_a_damaged_task_is_deleted_when_it_is_dequeued(broker: Broker, taken: LeasedTask) -> None:
    print_text(broker, taken.lease, b"text\n")
    broker.run(requeue(taken.lease, now_ns=broker.now_ns()))
    redis_of(broker).hdel(KEYS.task("t1"), "msg")

    assert take(broker) == []

    assert not redis_of(broker).exists(KEYS.task("t1"))
    assert not redis_of(broker).exists(KEYS.output("t1"))


def test_output_of_a_damaged_task_is_deleted_when_it_is_forwarded(broker: Broker, taken: LeasedTask) -> None:
    print_text(broker, taken.lease, b"text\n")
    failure = Failure(error="boom", retry_at_s=broker.now_s() - 1)
    broker.run(retry(taken.lease, taken.message, failure, now_ns=broker.now_ns()))
    redis_of(broker).hdel(KEYS.task("t1"), "state")

    broker.run(forward(QUEUE, TaskState.RETRY, now_ns=broker.now_ns()))

    assert not redis_of(broker).exists(KEYS.task("t1"))
    assert not redis_of(broker).exists(KEYS.output("t1"))
