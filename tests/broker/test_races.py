"""Concurrent operations on the same tasks."""

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from runqy.broker.broker import Broker
from runqy.broker.queues.pausing import pause
from runqy.broker.tasks.cancel import Cancellation, cancel
from runqy.broker.tasks.dequeue import QueueWeight, dequeue_tasks, plan_dequeue
from runqy.broker.tasks.enqueue import enqueue
from runqy.broker.tasks.enqueue_batch import enqueue_many
from runqy.broker.tasks.finish import Failure, FinishOutcome, complete, requeue, retry
from runqy.errors import RunqyError, TaskAlreadyExists
from tests.support.tasks import QUEUE, counters, fields, ids, listed, new_task, put, take, take_one

THREADS = 8


def at_once(*actions: Callable[[], Any]) -> list[Any]:
    """Run actions on threads that start together; return their outcomes or errors in order."""
    barrier = threading.Barrier(len(actions))

    def act(action: Callable[[], Any]) -> Any:
        barrier.wait()
        try:
            return action()
        except RunqyError as error:
            return error

    with ThreadPoolExecutor(len(actions)) as pool:
        return list(pool.map(act, actions))


def test_every_task_is_dequeued_once(broker: Broker) -> None:
    names = [f"t{i}" for i in range(400)]
    broker.run(enqueue_many(broker, [new_task(name, "ab"[i % 2]) for i, name in enumerate(names)]))

    def drain() -> list[str]:
        got: list[str] = []
        shares = [QueueWeight(queue="a", priority=3), QueueWeight(queue="b")]
        while tasks := broker.run(
            dequeue_tasks(broker, plan_dequeue(shares, 3, worker_id="w"), now_ns=broker.now_ns())
        )[0]:
            got += ids(tasks)
        return got

    drained = at_once(*[drain] * THREADS)

    assert sorted(name for got in drained for name in got) == sorted(names)


def test_one_of_many_who_queue_the_same_id_succeeds(broker: Broker) -> None:
    requests = [enqueue(new_task("t1", payload=str(i).encode()), now_ns=broker.now_ns() + i) for i in range(THREADS)]

    outcomes = at_once(*[lambda request=request: broker.run(request) for request in requests])

    assert sum(isinstance(outcome, TaskAlreadyExists) for outcome in outcomes) == THREADS - 1
    assert listed(broker) == {"pending": ["t1"]}


def test_a_finish_sent_many_times_counts_once(broker: Broker) -> None:
    put(broker, "t1")
    taken = take_one(broker)
    request = complete(taken.lease, taken.message, b"1", now_ns=broker.now_ns())

    outcomes = at_once(*[lambda: broker.run(request)] * THREADS)

    assert outcomes == [FinishOutcome.COMPLETED] * THREADS
    assert counters(broker) == (1, 0)


@pytest.mark.parametrize("round_number", range(20))
def test_one_end_of_a_run_wins(broker: Broker, round_number: int) -> None:
    put(broker, "t1")
    taken = take_one(broker)
    now_ns = broker.now_ns()
    failure = Failure(error="e", retry_at_s=1)

    at_once(
        lambda: broker.run(retry(taken.lease, taken.message, failure, now_ns=now_ns)),
        lambda: broker.run(complete(taken.lease, taken.message, b"2", now_ns=now_ns)),
        lambda: broker.run(requeue(taken.lease, now_ns=now_ns)),
    )

    ended = {"retry": (1, 1), "completed": (1, 0), "pending": (0, 0)}
    (state,) = listed(broker)
    assert fields(broker, "t1")["state"] == state.encode()
    assert counters(broker) == ended[state]


@pytest.mark.parametrize("round_number", range(20))
def test_a_concurrent_cancel_and_dequeue_agree_on_their_order(broker: Broker, round_number: int) -> None:
    put(broker, "t1")

    taken, outcome = at_once(lambda: take(broker), lambda: broker.run(cancel(QUEUE, "t1", now_ns=broker.now_ns())))

    if outcome is Cancellation.CANCELED:
        assert taken == []
        assert listed(broker) == {"archived": ["t1"]}
    else:
        assert outcome is Cancellation.REQUESTED
        (one,) = taken
        assert broker.run(requeue(one.lease, now_ns=broker.now_ns())) is FinishOutcome.CANCELED


def test_no_task_is_dequeued_after_the_reply_to_a_pause(broker: Broker) -> None:
    broker.run(enqueue_many(broker, [new_task(f"t{i}") for i in range(3000)]))
    is_paused = threading.Event()
    late: list[str] = []

    def take_until_paused() -> None:
        for number in itertools.count():
            if number == 500:  # so that tasks are left, however late the pause comes
                is_paused.wait(120)
            was_paused = is_paused.is_set()
            tasks = take(broker)
            if was_paused:
                late.extend(ids(tasks))
                return

    def pause_soon() -> None:
        while len(listed(broker).get("active", [])) < 20:
            pass
        broker.run(pause(QUEUE, now_ns=broker.now_ns()))
        is_paused.set()

    at_once(pause_soon, *[take_until_paused] * 4)

    assert late == []
    assert listed(broker)["pending"]
