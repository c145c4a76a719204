"""Finishing runs, and the keys they leave."""

import datetime
from collections.abc import Callable
from dataclasses import replace

import pytest

from runqy.broker import keys
from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.request import Request
from runqy.broker.states import RunOutcome
from runqy.broker.streams.run_log import RunInfo
from runqy.broker.tasks.finish import (
    Completion,
    Failure,
    FinishOutcome,
    archive,
    complete,
    complete_all,
    requeue,
    retry,
    write_result,
)
from runqy.broker.tasks.lease import Lease, LeasedTask
from runqy.broker.tasks.reader import find_task
from runqy.errors import LeaseLost
from tests.support.redis_client import redis_of
from tests.support.subscriptions import subscribed
from tests.support.tasks import QUEUE, counters, fields, listed, message, put, take, take_one

NOW_NS = 1_700_000_000_500_000_000
NOW_S = 1_700_000_000
KEYS = QueueKeys(QUEUE)
FAILURE = Failure(error="boom", retry_at_s=NOW_S + 15)
TIMED_OUT = RunInfo(outcome=RunOutcome.TIMED_OUT)

Finish = Callable[[Lease, LeasedTask], Request[FinishOutcome]]
FINISHES: dict[str, Finish] = {
    "complete": lambda lease, taken: complete(lease, taken.message, b"42", now_ns=NOW_NS),
    "retry": lambda lease, taken: retry(lease, taken.message, FAILURE, now_ns=NOW_NS),
    "archive": lambda lease, taken: archive(lease, taken.message, error="boom", now_ns=NOW_NS),
    "requeue": lambda lease, taken: requeue(lease, now_ns=NOW_NS),
}


@pytest.fixture
def taken(broker: Broker) -> LeasedTask:
    """Return a leased task."""
    put(broker, "t1")
    return take_one(broker)


def mark_as_cancelled(broker: Broker) -> None:
    """Request the cancellation of the task."""
    redis_of(broker).hset(KEYS.task("t1"), "cancel", "1")


def test_a_success_is_kept_with_its_result(broker: Broker, taken: LeasedTask) -> None:
    outcome = broker.run(complete(taken.lease, taken.message, b"42", now_ns=NOW_NS))

    assert outcome is FinishOutcome.COMPLETED
    assert listed(broker) == {"completed": ["t1"]}
    assert redis_of(broker).zscore(KEYS.completed, "t1") == NOW_S + 86_400
    stored = fields(broker, "t1")
    assert (stored["state"], stored["result"]) == (b"completed", b"42")
    assert "owner" not in stored
    assert message(broker, "t1").completed_at == NOW_S
    assert counters(broker) == (1, 0)


def test_a_success_without_result_keeps_what_was_written_before(broker: Broker, taken: LeasedTask) -> None:
    broker.run(write_result(taken.lease, b"half"))

    broker.run(complete(taken.lease, taken.message, now_ns=NOW_NS))

    assert fields(broker, "t1")["result"] == b"half"


def test_a_success_that_is_not_kept_is_deleted(broker: Broker) -> None:
    put(broker, "t1", retention_s=0)
    taken = take_one(broker)

    outcome = broker.run(complete(taken.lease, taken.message, b"42", now_ns=NOW_NS))

    assert outcome is FinishOutcome.COMPLETED
    assert listed(broker) == {}
    assert not redis_of(broker).exists(KEYS.task("t1"))
    assert counters(broker) == (1, 0)
    assert 0 < redis_of(broker).ttl(KEYS.deleted_by("t1")) <= 300


def test_successes_that_are_recorded_together_are_each_kept(broker: Broker) -> None:
    put(broker, "t1", "t2", "t3")
    tasks = take(broker, 3)
    results = [b"1", None, b"3"]

    outcomes = broker.run(
        complete_all(
            [Completion(one.lease, one.message, result) for one, result in zip(tasks, results, strict=True)],
            now_ns=NOW_NS,
        )
    )

    assert outcomes == [FinishOutcome.COMPLETED] * 3
    assert listed(broker) == {"completed": ["t1", "t2", "t3"]}
    assert [fields(broker, task_id).get("result") for task_id in ("t1", "t2", "t3")] == results
    assert counters(broker) == (3, 0)


def test_a_lost_lease_among_successes_keeps_none_of_the_others_from_being_recorded(broker: Broker) -> None:
    put(broker, "t1", "t2")
    first, second = take(broker, 2)
    lost = Lease(QUEUE, "t1", "another")

    outcomes = broker.run(
        complete_all(
            [Completion(lost, first.message, b"1"), Completion(second.lease, second.message, b"2")], now_ns=NOW_NS
        )
    )

    assert isinstance(outcomes[0], LeaseLost)
    assert outcomes[1] is FinishOutcome.COMPLETED
    assert listed(broker) == {"active": ["t1"], "lease": ["t1"], "completed": ["t2"]}
    assert counters(broker) == (1, 0)


def test_successes_that_are_recorded_again_count_once(broker: Broker) -> None:
    put(broker, "t1", "t2")
    request = complete_all([Completion(one.lease, one.message, b"1") for one in take(broker, 2)], now_ns=NOW_NS)

    outcomes = broker.run(request), broker.run(request)

    assert outcomes == ([FinishOutcome.COMPLETED] * 2,) * 2
    assert counters(broker) == (2, 0)


def test_a_failure_waits_for_its_retry(broker: Broker, taken: LeasedTask) -> None:
    outcome = broker.run(retry(taken.lease, taken.message, FAILURE, now_ns=NOW_NS))

    assert outcome is FinishOutcome.RETRIED
    assert listed(broker) == {"retry": ["t1"]}
    assert redis_of(broker).zscore(KEYS.retry, "t1") == NOW_S + 15
    stored = message(broker, "t1")
    assert (stored.retried, stored.error_msg, stored.last_failed_at) == (1, "boom", NOW_S)
    assert fields(broker, "t1")["state"] == b"retry"
    assert counters(broker) == (1, 1)


def test_an_end_that_is_not_a_failure_spends_no_retry_and_is_not_counted(broker: Broker, taken: LeasedTask) -> None:
    failure = Failure(error="later", retry_at_s=NOW_S, is_failure=False)

    broker.run(retry(taken.lease, taken.message, failure, now_ns=NOW_NS))

    stored = message(broker, "t1")
    assert (stored.retried, stored.error_msg) == (0, "later")
    assert counters(broker) == (0, 0)
    assert "child_deaths" not in fields(broker, "t1")


def test_deaths_of_children_are_counted_and_spend_no_retry(broker: Broker, taken: LeasedTask) -> None:
    death = Failure(error="killed by signal 9", retry_at_s=NOW_S, child_died=True)

    broker.run(retry(taken.lease, taken.message, death, now_ns=NOW_NS))

    assert message(broker, "t1").retried == 0
    assert fields(broker, "t1")["child_deaths"] == b"1"


def test_a_worker_learns_of_earlier_deaths(broker: Broker, taken: LeasedTask) -> None:
    death = Failure(error="killed", retry_at_s=NOW_S, child_died=True)
    broker.run(retry(taken.lease, taken.message, death, now_ns=NOW_NS))
    redis_of(broker).zrem(KEYS.retry, "t1")
    redis_of(broker).lpush(KEYS.pending, "t1")

    again = take_one(broker)
    outcome = broker.run(archive(again.lease, again.message, error="killed", now_ns=NOW_NS, child_died=True))

    assert again.child_deaths == 1
    assert outcome is FinishOutcome.ARCHIVED
    assert fields(broker, "t1")["child_deaths"] == b"2"


def test_a_task_is_suspect_after_two_deaths_that_it_shared_and_neither_is_charged(
    broker: Broker, taken: LeasedTask
) -> None:
    put(broker, "t2")
    broker.run(requeue(taken.lease, now_ns=NOW_NS, shared_death=True))
    again = take_one(broker)
    broker.run(requeue(again.lease, now_ns=NOW_NS, shared_death=True))
    order = listed(broker)

    third = take_one(broker)

    assert [task.is_suspect for task in (taken, again, third)] == [False, False, True]
    assert order == {"pending": ["t1", "t2"]}
    assert (third.attempt, third.child_deaths, third.message.retried) == (1, 0, 0)
    assert counters(broker) == (0, 0)


@pytest.mark.parametrize(
    ("finish", "is_suspect"),
    [
        (lambda lease, taken: complete(lease, taken.message, b"42", now_ns=NOW_NS), False),
        (lambda lease, taken: retry(lease, taken.message, FAILURE, now_ns=NOW_NS), False),
        (lambda lease, taken: archive(lease, taken.message, error="boom", now_ns=NOW_NS), False),
        (lambda lease, taken: requeue(lease, now_ns=NOW_NS), True),
        (lambda lease, taken: retry(lease, taken.message, replace(FAILURE, child_died=True), now_ns=NOW_NS), True),
        (lambda lease, taken: retry(lease, taken.message, FAILURE, now_ns=NOW_NS, info=TIMED_OUT), True),
        (lambda lease, taken: archive(lease, taken.message, error="x", now_ns=NOW_NS, child_died=True), True),
    ],
    ids=["completed", "retried", "failed", "requeued", "died", "timed out", "archived for its deaths"],
)
def test_a_response_clears_the_suspicion_and_nothing_else_does(
    broker: Broker, taken: LeasedTask, finish: Finish, is_suspect: bool
) -> None:
    redis_of(broker).hset(KEYS.task("t1"), "shared_deaths", 2)

    broker.run(finish(taken.lease, taken))

    found = broker.run(find_task(broker, "t1"))
    assert found is not None
    assert found.is_suspect is is_suspect


def test_a_task_that_is_given_up_is_archived(broker: Broker, taken: LeasedTask) -> None:
    outcome = broker.run(archive(taken.lease, taken.message, error="boom", now_ns=NOW_NS))

    assert outcome is FinishOutcome.ARCHIVED
    assert listed(broker) == {"archived": ["t1"]}
    assert redis_of(broker).zscore(KEYS.archived, "t1") == NOW_S + 259_200
    assert fields(broker, "t1")["archived_at"] == str(NOW_S).encode()
    stored = message(broker, "t1")
    assert (stored.retried, stored.error_msg, stored.last_failed_at) == (0, "boom", NOW_S)
    assert counters(broker) == (1, 1)


def test_a_requeued_task_is_first_and_spends_no_retry(broker: Broker, taken: LeasedTask) -> None:
    put(broker, "t2")
    before = message(broker, "t1")

    outcome = broker.run(requeue(taken.lease, now_ns=NOW_NS))

    assert outcome is FinishOutcome.REQUEUED
    assert listed(broker) == {"pending": ["t1", "t2"]}
    assert message(broker, "t1") == before
    stored = fields(broker, "t1")
    assert (stored["state"], stored["pending_since"]) == (b"pending", str(NOW_NS).encode())
    assert "owner" not in stored
    assert counters(broker) == (0, 0)
    assert stored["attempts"] == b"0"


@pytest.mark.parametrize("verb", ["retry", "requeue"])
def test_a_cancelled_task_is_archived_instead(broker: Broker, taken: LeasedTask, verb: str) -> None:
    mark_as_cancelled(broker)

    outcome = broker.run(FINISHES[verb](taken.lease, taken))

    assert outcome is FinishOutcome.CANCELED
    assert listed(broker) == {"archived": ["t1"]}
    assert fields(broker, "t1")["state"] == b"archived"
    stored = message(broker, "t1")
    assert (stored.error_msg, stored.last_failed_at, stored.payload) == ("canceled", NOW_S, b'{"n":1}')
    assert counters(broker) == (1, 1)


@pytest.mark.parametrize("verb", FINISHES)
def test_a_run_cannot_be_finished_without_its_lease(broker: Broker, taken: LeasedTask, verb: str) -> None:
    foreign = Lease(QUEUE, "t1", "foreign")
    before = fields(broker, "t1"), listed(broker), message(broker, "t1")

    with pytest.raises(LeaseLost):
        broker.run(FINISHES[verb](foreign, taken))
    assert (fields(broker, "t1"), listed(broker), message(broker, "t1")) == before
    assert counters(broker) == (0, 0)


@pytest.mark.parametrize("verb", FINISHES)
@pytest.mark.parametrize("missing", ["lease", "active", "hash"])
def test_a_run_with_half_of_its_keys_lost_is_not_finished(
    broker: Broker, taken: LeasedTask, verb: str, missing: str
) -> None:
    redis_of(broker).delete(KEYS.task("t1") if missing == "hash" else KEYS.prefix + missing)

    with pytest.raises(LeaseLost):
        broker.run(FINISHES[verb](taken.lease, taken))
    assert counters(broker) == (0, 0)
    assert not {"pending", "retry", "archived", "completed"} & listed(broker).keys()
    assert redis_of(broker).exists(KEYS.task("t1")) == (missing != "hash")


@pytest.mark.parametrize("is_cancelled", [False, True])
@pytest.mark.parametrize("verb", FINISHES)
def test_a_finish_that_is_repeated_is_success_and_changes_nothing(
    broker: Broker, taken: LeasedTask, verb: str, is_cancelled: bool
) -> None:
    if is_cancelled:
        mark_as_cancelled(broker)
    request = FINISHES[verb](taken.lease, taken)
    first = broker.run(request)
    before = fields(broker, "t1"), listed(broker), message(broker, "t1"), counters(broker)

    assert broker.run(request) is first
    assert (fields(broker, "t1"), listed(broker), message(broker, "t1"), counters(broker)) == before


def test_a_deletion_that_is_repeated_is_success_only_for_who_did_it(broker: Broker) -> None:
    put(broker, "t1", retention_s=0)
    taken = take_one(broker)
    request = complete(taken.lease, taken.message, now_ns=NOW_NS)
    broker.run(request)

    assert broker.run(request) is FinishOutcome.COMPLETED
    with pytest.raises(LeaseLost):
        broker.run(complete(Lease(QUEUE, "t1", "other"), taken.message, now_ns=NOW_NS))
    assert counters(broker) == (1, 0)


def test_a_late_finish_does_not_touch_the_next_run(broker: Broker, taken: LeasedTask) -> None:
    broker.run(requeue(taken.lease, now_ns=NOW_NS))
    second = take_one(broker)
    broker.run(complete(second.lease, second.message, b"second", now_ns=NOW_NS))

    with pytest.raises(LeaseLost):
        broker.run(complete(taken.lease, taken.message, b"first", now_ns=NOW_NS))
    assert fields(broker, "t1")["result"] == b"second"


def test_results_are_written_by_the_owner_only(broker: Broker, taken: LeasedTask) -> None:
    broker.run(write_result(taken.lease, b"1"))

    with pytest.raises(LeaseLost):
        broker.run(write_result(Lease(QUEUE, "t1", "foreign"), b"2"))
    with pytest.raises(LeaseLost):
        broker.run(write_result(Lease(QUEUE, "gone", "foreign"), b"2"))
    redis_of(broker).delete(KEYS.lease)
    with pytest.raises(LeaseLost):
        broker.run(write_result(taken.lease, b"2"))
    assert fields(broker, "t1")["result"] == b"1"
    assert not redis_of(broker).exists(KEYS.task("gone"))


def test_attempts_are_counted_by_utc_day_for_ninety_days(broker: Broker, taken: LeasedTask) -> None:
    now_ns = broker.now_ns()
    day = datetime.datetime.fromtimestamp(now_ns / 1e9, datetime.UTC).strftime("%Y-%m-%d")

    broker.run(archive(taken.lease, taken.message, error="boom", now_ns=now_ns))

    for key in (KEYS.processed_on(day), KEYS.failed_on(day)):
        assert redis_of(broker).get(key) == b"1"
        assert redis_of(broker).expiretime(key) == now_ns // 1_000_000_000 + 90 * 86_400
    assert redis_of(broker).ttl(KEYS.processed) == -1


def test_the_expiry_of_a_days_counter_is_set_once(broker: Broker, taken: LeasedTask) -> None:
    put(broker, "t2")
    second = take_one(broker)
    now_ns = broker.now_ns()  # of both: midnight may be between them
    broker.run(complete(taken.lease, taken.message, now_ns=now_ns))
    (key,) = redis_of(broker).keys(KEYS.prefix + "processed:*")
    redis_of(broker).expire(key, 1000)

    broker.run(complete(second.lease, second.message, now_ns=now_ns))

    assert redis_of(broker).get(key) == b"2"
    assert redis_of(broker).ttl(key) <= 1000


@pytest.mark.parametrize(("verb", "after"), [("complete", (1, 7)), ("archive", (1, 1))])
def test_counters_start_again_where_they_would_leave_int64(
    broker: Broker, taken: LeasedTask, verb: str, after: tuple[int, int]
) -> None:
    redis_of(broker).set(KEYS.processed, 2**63 - 1)
    redis_of(broker).set(KEYS.failed, 7)

    broker.run(FINISHES[verb](taken.lease, taken))

    assert counters(broker) == after


def test_the_last_number_below_the_end_of_int64_is_counted(broker: Broker, taken: LeasedTask) -> None:
    redis_of(broker).set(KEYS.processed, 2**63 - 2)

    broker.run(complete(taken.lease, taken.message, now_ns=NOW_NS))

    assert counters(broker) == (2**63 - 1, 0)


def take_with_lock(broker: Broker, lock: str, owner_task: str = "t1") -> LeasedTask:
    """Return a leased task with a uniqueness lock, as asynq's clients create it."""
    put(broker, "t1")
    stored = message(broker, "t1")
    stored.unique_key = lock
    redis_of(broker).hset(KEYS.task("t1"), mapping={"msg": stored.SerializeToString(), "unique_key": lock})
    redis_of(broker).set(lock, owner_task, ex=600)
    return take_one(broker)


@pytest.mark.parametrize("retention_s", [0, 60])
def test_success_releases_the_lock_of_the_task(broker: Broker, retention_s: int) -> None:
    taken = take_with_lock(broker, KEYS.lock_prefix + "mail:abc")
    taken.message.retention = retention_s

    broker.run(complete(taken.lease, taken.message, now_ns=NOW_NS))

    assert not redis_of(broker).exists(KEYS.lock_prefix + "mail:abc")


def test_a_lock_that_another_task_got_meanwhile_stays(broker: Broker) -> None:
    taken = take_with_lock(broker, KEYS.lock_prefix + "mail:abc", owner_task="t2")

    broker.run(complete(taken.lease, taken.message, now_ns=NOW_NS))

    assert redis_of(broker).get(KEYS.lock_prefix + "mail:abc") == b"t2"


def test_a_message_cannot_name_a_key_of_others_as_its_lock(broker: Broker) -> None:
    taken = take_with_lock(broker, "elsewhere")

    broker.run(complete(taken.lease, taken.message, now_ns=NOW_NS))

    assert redis_of(broker).get("elsewhere") == b"t1"


@pytest.mark.parametrize("verb", ["retry", "requeue"])
def test_a_task_that_will_run_again_keeps_its_lock(broker: Broker, verb: str) -> None:
    taken = take_with_lock(broker, KEYS.lock_prefix + "mail:abc")

    broker.run(FINISHES[verb](taken.lease, taken))

    assert redis_of(broker).get(KEYS.lock_prefix + "mail:abc") == b"t1"


@pytest.mark.parametrize(("verb", "is_cancelled"), [("archive", False), ("retry", True), ("requeue", True)])
def test_a_task_that_is_given_up_frees_its_lock(broker: Broker, verb: str, is_cancelled: bool) -> None:
    taken = take_with_lock(broker, KEYS.lock_prefix + "mail:abc")
    if is_cancelled:
        redis_of(broker).hset(KEYS.task("t1"), "cancel", 1)

    broker.run(FINISHES[verb](taken.lease, taken))

    assert not redis_of(broker).exists(KEYS.lock_prefix + "mail:abc")


@pytest.mark.parametrize(
    ("verb", "state"), [("complete", b"completed"), ("archive", b"archived"), ("retry", None), ("requeue", None)]
)
def test_clients_are_notified_when_a_task_ended(single_broker: Broker, verb: str, state: bytes | None) -> None:
    put(single_broker, "t1")
    taken = take_one(single_broker)
    with subscribed(redis_of(single_broker), keys.ended_channel("t1")) as subscription:
        single_broker.run(FINISHES[verb](taken.lease, taken))
        redis_of(single_broker).publish(keys.ended_channel("t1"), "last")

        _, message = subscription.next()
    assert message == (state or b"last")


def test_a_full_redis_can_be_drained(single_broker: Broker) -> None:
    names = ["complete", "retry", "archive", "requeue"]
    put(single_broker, *names)
    tasks = take(single_broker, 4)

    redis_of(single_broker).config_set("maxmemory", 1)
    try:
        outcomes = [single_broker.run(FINISHES[taken.lease.task_id](taken.lease, taken)) for taken in tasks]
    finally:
        redis_of(single_broker).config_set("maxmemory", 0)

    assert outcomes == [FinishOutcome.COMPLETED, FinishOutcome.RETRIED, FinishOutcome.ARCHIVED, FinishOutcome.REQUEUED]
