"""Threads of a pool are used again, make no job wait, and end when they have nothing to do."""

import threading

from runqy.core.concurrency.threads import ThreadPool

PATIENCE_S = 30.0


class Jobs:
    """Jobs that run until they are released."""

    def __init__(self) -> None:
        self.began = threading.Semaphore(0)
        self.released = threading.Semaphore(0)
        self.threads: list[int] = []

    def run(self) -> None:
        self.threads.append(threading.get_ident())
        self.began.release()
        assert self.released.acquire(timeout=PATIENCE_S)


def test_a_job_waits_for_no_other_one() -> None:
    pool, jobs = ThreadPool("test", idle_s=PATIENCE_S), Jobs()

    for _ in range(20):
        pool.start(jobs.run)
    have_begun = [jobs.began.acquire(timeout=PATIENCE_S) for _ in range(20)]
    jobs.released.release(20)

    assert (all(have_begun), len({*jobs.threads})) == (True, 20)


def test_a_thread_without_a_job_ends_and_says_so() -> None:
    ended = threading.Event()
    pool, has_run = ThreadPool("test", idle_s=0.01, on_end=ended.set), threading.Event()

    pool.start(has_run.set)

    assert has_run.wait(PATIENCE_S)
    assert ended.wait(PATIENCE_S)
    again = threading.Event()
    pool.start(again.set)
    assert again.wait(PATIENCE_S)


def test_no_job_is_lost_while_threads_end() -> None:
    pool, done = ThreadPool("test", idle_s=0.0005), threading.Semaphore(0)
    pause = threading.Event()

    for number in range(400):
        pool.start(done.release)
        pause.wait(0.0005 * (number % 3))

    assert all(done.acquire(timeout=PATIENCE_S) for _ in range(400))
