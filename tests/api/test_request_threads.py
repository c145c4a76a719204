"""Few threads inside, any number outside, and nobody stuck."""

import threading
from typing import Any

import pytest
from structlog.testing import capture_logs

from runqy import request_threads
from runqy.request_threads import Job, RequestThreads, waiting
from tests.support.waiting import wait_until

FOREVER_S = 60.0


@pytest.fixture(autouse=True)
def _no_relief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody be helped out of the queue, unless a test is about that."""
    monkeypatch.setattr(request_threads, "RELIEF_S", FOREVER_S)


def outcome(job: Job) -> Any:
    """Return what came of a job, once it is done."""
    wait_until(job.done)
    return job.result()


def test_no_more_than_its_places_are_inside_and_the_rest_follow_in_order() -> None:
    threads, leave = RequestThreads(places=2, most=10), threading.Event()
    began: list[int] = []

    def work(number: int) -> int:
        began.append(number)
        leave.wait(10)
        return number

    done = [threads.submit(work, number) for number in range(5)]
    wait_until(lambda: len(began) == 2)
    assert not any(future.done() for future in done)
    leave.set()

    assert [outcome(future) for future in done] == [0, 1, 2, 3, 4]
    assert sorted(began) == [0, 1, 2, 3, 4]


def test_a_thread_that_ended_is_used_again() -> None:
    threads = RequestThreads(places=4, most=10)
    names = set()

    for _ in range(20):
        names.add(outcome(threads.submit(lambda: threading.current_thread().name)))
        wait_until(lambda: threads._inside == 0)

    assert len(names) == 1


def test_whoever_waits_outside_lets_the_next_in(monkeypatch: pytest.MonkeyPatch) -> None:
    threads, come_back = RequestThreads(places=1, most=2), threading.Event()
    monkeypatch.setattr(request_threads, "_threads", threads)

    def wait() -> str:
        with waiting():
            come_back.wait(10)
        return "waited"

    waiter = threads.submit(wait)
    other = threads.submit(lambda: "other")

    assert outcome(other) == "other"
    assert not waiter.done()
    come_back.set()
    assert outcome(waiter) == "waited"


def test_places_are_neither_lost_nor_won_by_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = RequestThreads(places=2, most=20)
    monkeypatch.setattr(request_threads, "_threads", threads)

    def step_out() -> None:
        with waiting():
            pass

    for future in [threads.submit(step_out) for _ in range(500)]:
        outcome(future)

    wait_until(lambda: threads._inside == 0)
    assert len(threads._idle) == threads._count


def test_whoever_asks_to_be_called_is_called_once_before_and_after_the_end() -> None:
    threads, may_end = RequestThreads(places=1, most=1), threading.Event()
    called: list[str] = []
    job = threads.submit(may_end.wait, 10)

    job.add_done_callback(lambda _: called.append(f"first {threading.current_thread().name}"))
    may_end.set()
    wait_until(lambda: called)
    job.add_done_callback(lambda _: called.append(f"second {threading.current_thread().name}"))

    assert called == ["first runqy-request-1", f"second {threading.current_thread().name}"]
    assert not job.cancelled()


def test_a_callback_that_fails_costs_no_thread() -> None:
    threads, may_end = RequestThreads(places=1, most=1), threading.Event()
    job = threads.submit(may_end.wait, 10)
    job.add_done_callback(lambda _: 1 // 0)

    with capture_logs() as logs:
        may_end.set()
        assert outcome(threads.submit(lambda: "fine")) == "fine"

    assert [line["event"] for line in logs] == ["callback_failed"]


def test_an_error_is_handed_on_and_its_place_is_free_again() -> None:
    threads = RequestThreads(places=1, most=1)

    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            outcome(threads.submit(lambda: 1 // 0))

    assert outcome(threads.submit(lambda: "fine")) == "fine"


def test_there_are_never_more_threads_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    threads, come_back = RequestThreads(places=1, most=3), threading.Event()
    monkeypatch.setattr(request_threads, "_threads", threads)

    def wait() -> None:
        with waiting():
            come_back.wait(10)

    done = [threads.submit(wait) for _ in range(10)]
    wait_until(lambda: threads._count == 3 and threads._inside == 0)
    assert len(threads._queue) == 7
    come_back.set()

    for future in done:
        outcome(future)
    assert threads._count == 3


def test_threads_that_are_stuck_in_their_places_do_not_stop_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_threads, "RELIEF_S", 0.01)
    threads, unstick = RequestThreads(places=2, most=10), threading.Event()
    stuck = [threads.submit(unstick.wait, 10) for _ in range(4)]

    quick = threads.submit(lambda: "quick")

    assert outcome(quick) == "quick"
    unstick.set()
    assert all(outcome(future) for future in stuck)


def test_waiting_on_any_other_thread_is_no_concern_of_the_places() -> None:
    threads = RequestThreads(places=1, most=1)

    with threads.outside():
        assert threads._inside == 0
