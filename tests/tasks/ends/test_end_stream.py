"""What the scripts that end tasks append to the stream of their queue, for those who are told of it."""

from collections.abc import Callable

import pytest

from runqy.broker.broker import Broker
from runqy.broker.duties.foreign_ends import ForeignEndSearch
from runqy.broker.duties.forwarder import forward_due
from runqy.broker.duties.janitor import ArchiveCursors, delete_expired
from runqy.broker.duties.pending_timeouts import archive_all_timed_out
from runqy.broker.duties.recoverer import LeaselessWatch, recover_lost
from runqy.broker.keys import QueueKeys
from runqy.broker.queues.deletion import delete_redis_queue, forget_unread_ends, read_unread_ends
from runqy.broker.states import RunOutcome, TaskState
from runqy.broker.streams.ends import MAX_ENDS_WITH_RESULTS, MAX_RESULT_BYTES, EndOutcome, Notify, TaskEnd, read_ends
from runqy.broker.streams.run_log import RunInfo
from runqy.broker.tasks import enqueue as enqueue_module
from runqy.broker.tasks import enqueue_batch
from runqy.broker.tasks.cancel import cancel
from runqy.broker.tasks.enqueue import NewTask, enqueue, enqueue_unique
from runqy.broker.tasks.enqueue_batch import enqueue_many
from runqy.broker.tasks.finish import Failure, archive, complete, requeue, retry
from runqy.broker.tasks.inspector import archive_tasks, delete_tasks, run_tasks
from runqy.broker.tasks.lease import LeasedTask
from runqy.errors import EndsFull
from tests.support.redis_client import redis_of
from tests.support.tasks import QUEUE, fields, listed, message, new_task, put, put_in_group, take, take_one

KEYS = QueueKeys(QUEUE)
NOTIFY = Notify(batch="b1")


@pytest.fixture(params=["single", pytest.param("cluster", marks=pytest.mark.cluster)])
def broker(request: pytest.FixtureRequest) -> Broker:
    return request.getfixturevalue(f"{request.param}_broker")


def ends(broker: Broker) -> list[TaskEnd]:
    found = [entry.end for entry in broker.run(read_ends(QUEUE, limit=1000))]
    assert None not in found
    return found


def only_end(broker: Broker) -> TaskEnd:
    (end,) = ends(broker)
    return end


def leased(broker: Broker, **options) -> LeasedTask:
    put(broker, "t1", **{"notify": NOTIFY} | options)
    return take_one(broker)


def finished(broker: Broker, **options) -> LeasedTask:
    taken = leased(broker, **options)
    broker.run(complete(taken.lease, taken.message, b"1", now_ns=broker.now_ns()))
    return taken


def _archive(broker: Broker, taken: LeasedTask, outcome: RunOutcome | None = None) -> None:
    broker.run(archive(taken.lease, taken.message, error="E: 1", now_ns=broker.now_ns(), info=RunInfo(outcome=outcome)))


def _cancel_and(end: Callable[[Broker, LeasedTask], None]) -> Callable[[Broker], str]:
    def end_canceled(broker: Broker) -> str:
        taken = leased(broker)
        broker.run(cancel(QUEUE, "t1", now_ns=broker.now_ns()))
        end(broker, taken)
        return taken.lease.token

    return end_canceled


def _retry(broker: Broker, taken: LeasedTask) -> None:
    failure = Failure(error="e", retry_at_s=0)
    broker.run(retry(taken.lease, taken.message, failure, now_ns=broker.now_ns()))


def _requeue(broker: Broker, taken: LeasedTask) -> None:
    broker.run(requeue(taken.lease, taken.message, now_ns=broker.now_ns()))


def _complete(broker: Broker) -> str:
    return finished(broker).lease.token


def _complete_and_delete(broker: Broker) -> str:
    return finished(broker, retention_s=0).lease.token


def _fail(broker: Broker) -> str:
    taken = leased(broker)
    _archive(broker, taken)
    return taken.lease.token


def _expire_at_start(broker: Broker) -> str:
    taken = leased(broker)
    _archive(broker, taken, RunOutcome.EXPIRED)
    return taken.lease.token


def _lose(broker: Broker) -> str:
    taken = leased(broker, max_retry=0)
    redis_of(broker).zadd(KEYS.lease, {"t1": 1})
    broker.run(recover_lost(broker, [QUEUE], LeaselessWatch()))
    return taken.lease.token


def _time_out(broker: Broker) -> None:
    put(broker, "t1", notify=NOTIFY)
    redis_of(broker).hset(KEYS.task("t1"), "pending_since", broker.now_ns() - 60 * 10**9)
    broker.run(archive_all_timed_out(broker, {QUEUE: 5}))


def _cancel_waiting(broker: Broker) -> None:
    put(broker, "t1", notify=NOTIFY)
    broker.run(cancel(QUEUE, "t1", now_ns=broker.now_ns()))


def _cancel_put_back(broker: Broker) -> None:
    put(broker, "t1", notify=NOTIFY, process_at_s=broker.now_s() + 60)
    redis_of(broker).hset(KEYS.task("t1"), "cancel", broker.now_ns())
    redis_of(broker).zadd(KEYS.scheduled, {"t1": 1})
    broker.run(forward_due(broker, [QUEUE]))


def _archive_by_hand(broker: Broker) -> None:
    put(broker, "t1", notify=NOTIFY)
    broker.run(archive_tasks(QUEUE, ["t1"], now_ns=broker.now_ns()))


def _delete(broker: Broker) -> None:
    put(broker, "t1", notify=NOTIFY)
    broker.run(delete_tasks(QUEUE, ["t1"], now_ns=broker.now_ns()))


@pytest.mark.parametrize(
    ("end", "outcome", "attempt", "error"),
    [
        (_complete, EndOutcome.COMPLETED, 1, ""),
        (_complete_and_delete, EndOutcome.COMPLETED, 1, ""),
        (_fail, EndOutcome.ARCHIVED, 1, "E: 1"),
        (_expire_at_start, EndOutcome.EXPIRED, 0, "E: 1"),
        (_cancel_and(_retry), EndOutcome.CANCELED, 1, "e"),
        (_cancel_and(_requeue), EndOutcome.CANCELED, 1, "canceled"),
        (_cancel_and(lambda b, t: _archive(b, t, RunOutcome.CANCELED)), EndOutcome.CANCELED, 1, "E: 1"),
        (_lose, EndOutcome.ARCHIVED, 1, "asynq: task lease expired"),
        (_time_out, EndOutcome.EXPIRED, 0, "waited in the queue for longer than its pending_timeout of 5 s"),
        (_cancel_waiting, EndOutcome.CANCELED, 0, "canceled"),
        (_cancel_put_back, EndOutcome.CANCELED, 0, "canceled"),
        (_archive_by_hand, EndOutcome.ARCHIVED, 0, "archived on request"),
        (_delete, EndOutcome.DELETED, 0, ""),
    ],
)
def test_each_way_to_end_is_told_once(broker: Broker, end: Callable, outcome: EndOutcome, attempt: int, error: str):
    before_ns = broker.now_ns() // 10**9 * 10**9

    token = end(broker)

    told = only_end(broker)
    assert (told.task_id, told.outcome, told.attempt, told.notify) == ("t1", outcome, attempt, NOTIFY)
    assert told.error.startswith(error)
    assert bool(told.error) == bool(error)
    assert told.end_id == token if token else told.end_id
    assert before_ns <= told.ended_ns <= broker.now_ns() + 10**9


def test_a_task_that_nobody_is_told_of_leaves_nothing(broker: Broker):
    finished(broker, notify=None)

    assert not redis_of(broker).exists(KEYS.ends)
    assert not {"notify", "ended"} & fields(broker, "t1").keys()


def test_an_attempt_that_does_not_end_the_task_is_not_told(broker: Broker):
    _retry(broker, leased(broker))

    assert ends(broker) == []


def test_a_task_that_runs_again_ends_again(broker: Broker):
    first = finished(broker)
    broker.run(run_tasks(QUEUE, ["t1"], now_ns=broker.now_ns()))
    second = take_one(broker)
    _archive(broker, second)

    assert [(end.end_id, end.outcome) for end in ends(broker)] == [
        (first.lease.token, EndOutcome.COMPLETED),
        (second.lease.token, EndOutcome.ARCHIVED),
    ]


def test_a_task_that_has_ended_is_not_told_of_again_when_it_is_deleted(broker: Broker):
    finished(broker)
    broker.run(delete_tasks(QUEUE, ["t1"], now_ns=broker.now_ns()))

    assert only_end(broker).outcome is EndOutcome.COMPLETED


@pytest.mark.parametrize("retention_s", [0, 60])
def test_the_result_is_told_if_it_is_wanted(broker: Broker, retention_s: int):
    for number, (notify, size) in enumerate([(True, MAX_RESULT_BYTES), (True, MAX_RESULT_BYTES + 1), (False, 1)]):
        put(broker, f"t{number}", notify=Notify(include_result=notify), retention_s=retention_s)
        taken = take_one(broker)
        finish = complete(
            taken.lease, taken.message, b"1" * size, now_ns=broker.now_ns(), wants_result=taken.wants_result
        )
        broker.run(finish)

    told = [(len(end.result or b""), end.is_result_omitted) for end in ends(broker)]
    assert told == [(MAX_RESULT_BYTES, False), (0, True), (0, False)]


def test_results_are_left_out_while_many_ends_wait(broker: Broker):
    fill = "for _ = 1, ARGV[1] do redis.call('XADD', KEYS[1], '*', 'end', '') end"
    redis_of(broker).eval(fill, 1, KEYS.ends, MAX_ENDS_WITH_RESULTS)

    finished(broker, notify=Notify(include_result=True))

    end = broker.run(read_ends(QUEUE, limit=MAX_ENDS_WITH_RESULTS + 1))[-1].end
    assert (end.result, end.is_result_omitted) == (None, True)


def test_a_full_stream_of_ends_refuses_tasks_that_tell_theirs(broker: Broker, monkeypatch: pytest.MonkeyPatch):
    finished(broker)
    monkeypatch.setattr(enqueue_module, "MAX_ENDS", 1)
    monkeypatch.setattr(enqueue_batch, "MAX_ENDS", 1)
    now_ns, is_cluster = broker.now_ns(), broker.is_cluster

    for task in (new_task("t2", notify=NOTIFY), new_task("t3", notify=NOTIFY, process_at_s=broker.now_s() + 60)):
        with pytest.raises(EndsFull, match="mail"):
            broker.run(enqueue(task, now_ns=now_ns, is_cluster=is_cluster))
    locked = new_task("t4", notify=NOTIFY, unique_key="k")
    with pytest.raises(EndsFull):
        broker.run(enqueue_unique(locked, now_ns=now_ns, is_cluster=is_cluster))
    batch: list[NewTask] = [new_task("t5", notify=NOTIFY), new_task("t6")]
    outcomes = broker.run(enqueue_many(broker, batch))

    assert isinstance(outcomes[0], EndsFull)
    assert outcomes[1] is TaskState.PENDING
    assert listed(broker)["pending"] == ["t6"]
    assert not redis_of(broker).exists(locked.lock)


def test_tasks_of_a_batch_are_told_of_like_single_ones(broker: Broker):
    at_s = broker.now_s() + 60
    broker.run(
        enqueue_many(
            broker,
            [
                new_task("t1", notify=NOTIFY),
                new_task("t2"),
                new_task("t3", notify=Notify(url="https://a.example"), process_at_s=at_s),
            ],
        )
    )
    broker.run(cancel(QUEUE, "t3", now_ns=broker.now_ns()))
    for taken in take(broker, 2):
        _archive(broker, taken)

    assert [(end.task_id, end.notify) for end in ends(broker)] == [
        ("t3", Notify(url="https://a.example")),
        ("t1", NOTIFY),
    ]


def _end_foreign(broker: Broker, task_id: str, state: str, score_s: int, **changes) -> None:
    """End a pending task as asynq does: nothing else of the hash changes."""
    known = message(broker, task_id)
    for name, value in changes.items():
        setattr(known, name, value)
    redis_of(broker).lrem(KEYS.pending, 1, task_id)
    redis_of(broker).hset(KEYS.task(task_id), mapping={"state": state, "msg": known.SerializeToString()})
    redis_of(broker).zadd(f"{KEYS.prefix}{state}", {task_id: score_s})


def test_ends_that_foreign_programs_made_are_found_once(broker: Broker):
    put(broker, "done", "failed", "by-hand", notify=NOTIFY, retention_s=60)
    put(broker, "untold", retention_s=60)
    now_s, search = broker.now_s(), ForeignEndSearch()
    _end_foreign(broker, "done", "completed", now_s + 60, completed_at=now_s)
    _end_foreign(broker, "failed", "archived", now_s, error_msg="E: 1", last_failed_at=now_s)
    _end_foreign(broker, "by-hand", "archived", now_s)
    _end_foreign(broker, "untold", "completed", now_s + 60, completed_at=now_s)

    assert [search.tell_all(broker, [QUEUE]) for _ in range(2)] == [3, 0]
    assert {(end.task_id, end.outcome, end.error, end.ended_ns) for end in ends(broker)} == {
        ("done", EndOutcome.COMPLETED, "", now_s * 10**9),
        ("failed", EndOutcome.ARCHIVED, "E: 1", now_s * 10**9),
        ("by-hand", EndOutcome.ARCHIVED, "archived on request", now_s * 10**9),
    }


def test_a_task_that_a_foreign_program_runs_again_is_told_again(broker: Broker):
    finished(broker, retention_s=60)
    put(broker, "t2", notify=NOTIFY)
    broker.run(archive_tasks(QUEUE, ["t2"], now_ns=broker.now_ns()))
    search, later_s = ForeignEndSearch(), broker.now_s() + 100
    assert search.tell_all(broker, [QUEUE]) == 0, "runqy ended both"
    for task_id, state, score_s in (("t1", "completed", later_s + 60), ("t2", "archived", later_s)):
        _end_foreign(broker, task_id, state, score_s, completed_at=later_s)

    assert [search.tell_all(broker, [QUEUE]) for _ in range(2)] == [2, 0]


def test_an_end_that_a_foreign_program_made_is_told_at_the_latest_when_its_task_is_deleted(broker: Broker):
    put(broker, "t1", notify=NOTIFY)
    redis_of(broker).lrem(KEYS.pending, 1, "t1")
    redis_of(broker).hset(KEYS.task("t1"), "state", "completed")
    redis_of(broker).zadd(KEYS.completed, {"t1": 1})

    broker.run(delete_expired(broker, {QUEUE: 60}, ArchiveCursors()))

    assert only_end(broker).outcome is EndOutcome.COMPLETED


def test_deleting_a_queue_ends_its_tasks_and_keeps_the_stream_until_it_is_read(broker: Broker):
    put(broker, "t1", "t2", "t3", "t4", "t5", notify=NOTIFY)
    take(broker, 1)
    redis_of(broker).lrem(KEYS.pending, 1, "t2")  # in no index
    broker.run(archive_tasks(QUEUE, ["t3"], now_ns=broker.now_ns()))
    put_in_group(broker, "g", "t4")

    delete_redis_queue(broker, QUEUE, parent="parent")

    assert {end.task_id: end.outcome.value for end in ends(broker)} == {
        "t1": "deleted",
        "t2": "deleted",
        "t3": "archived",
        "t4": "deleted",
        "t5": "deleted",
    }
    assert len(ends(broker)) == 5
    assert broker.run(read_unread_ends()) == {QUEUE: "parent"}
    broker.run(forget_unread_ends([QUEUE]))
    assert redis_of(broker).exists(KEYS.ends), "it has entries"


@pytest.mark.parametrize("forged", [{"end": "x"}, {"other": "1"}, {"end": "completed\0" + "1\0" * 4 + "t1"}])
def test_an_entry_that_no_script_appended_is_recognised(broker: Broker, forged: dict[str, str]):
    redis_of(broker).xadd(KEYS.ends, forged)

    (entry,) = broker.run(read_ends(QUEUE, limit=10))

    assert entry.end is None


def test_a_key_of_another_type_is_no_obstacle(broker: Broker):
    redis_of(broker).set(KEYS.ends, "x")

    finished(broker, notify=Notify(include_result=True))

    assert ends(broker) == []
    assert listed(broker) == {"completed": ["t1"]}
    assert "ended" not in fields(broker, "t1")
