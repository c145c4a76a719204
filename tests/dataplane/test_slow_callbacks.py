"""A callback that holds up an event loop fails its test; one that only had to wait for a busy machine does not."""

import asyncio
import gc
import multiprocessing
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from runqy.server.dataplane.request import ParsedRequest
from runqy.server.dataplane.responses import Response
from tests.dataplane.servers import build, echo, serve
from tests.support import event_loop
from tests.support.event_loop import WatchedLoop, watch_callbacks

pytestmark = pytest.mark.slow

RIVALS = 4


def compute(seconds: float) -> None:
    """Use a CPU for a time."""
    ends_at_s = time.thread_time() + seconds
    while time.thread_time() < ends_at_s:
        pass


def call_back(function: Callable[[], object]) -> None:
    """Call a function on an event loop."""

    async def main() -> None:
        asyncio.get_running_loop().call_soon(function)
        await asyncio.sleep(0)

    event_loop.run(main())


def logged_callbacks(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return asyncio's log messages about callbacks that took long by wall-clock time."""
    return [record.getMessage() for record in caplog.records if record.name == "asyncio"]


@contextmanager
def busy_cpu() -> Iterator[None]:
    """Have other processes compute on the one CPU that this thread may use."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    rivals = [multiprocessing.get_context("fork").Process(target=compute, args=(60,)) for _ in range(RIVALS)]
    try:
        for rival in rivals:
            rival.start()
        yield
    finally:
        os.sched_setaffinity(0, before)
        for rival in rivals:
            rival.kill()
            rival.join()


@contextmanager
def busy_threads() -> Iterator[None]:
    """Have other threads of this process compute."""
    is_over = threading.Event()

    def work() -> None:
        while not is_over.is_set():
            compute(0.01)

    threads = [threading.Thread(target=work) for _ in range(RIVALS)]
    try:
        for thread in threads:
            thread.start()
        yield
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


def receive_nothing(seconds: float) -> None:
    """Wait for a byte that does not come."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(seconds)
        with pytest.raises(TimeoutError):
            ours.recv(1)


def block_and_compute(seconds: float) -> None:
    """Do either for half of the time."""
    time.sleep(seconds / 2)
    compute(seconds / 2)


def block_often(seconds: float) -> None:
    """Block many times, each for a moment."""
    for _ in range(30):
        time.sleep(seconds / 30)


def call_until_found(callback: Callable[[], None], found: list[str]) -> None:
    """Call it up to twenty times: a thread that ends meanwhile, or the machine's host, may hide that it blocks."""
    for _ in range(20):
        call_back(callback)
        if found:
            return


@pytest.mark.parametrize(
    ("hold_up", "seconds"),
    [(compute, 0.15), (time.sleep, 0.4), (receive_nothing, 0.4), (block_and_compute, 0.6), (block_often, 0.4)],
)
def test_a_callback_that_computes_or_blocks_is_found(
    hold_up: Callable[[float], None], seconds: float, slow_callbacks: list[str]
) -> None:
    with pytest.raises(AssertionError, match="test_slow_callbacks"), watch_callbacks() as found:
        call_until_found(lambda: hold_up(seconds), found)

    slow_callbacks.clear()


def test_a_callback_that_blocks_is_found_on_a_busy_machine(slow_callbacks: list[str]) -> None:
    with busy_cpu(), pytest.raises(AssertionError, match="test_slow_callbacks"), watch_callbacks() as found:
        call_until_found(lambda: time.sleep(0.4), found)

    slow_callbacks.clear()


def test_a_handler_of_the_data_plane_that_blocks_is_found(slow_callbacks: list[str]) -> None:
    async def handle(_: ParsedRequest) -> Response:
        time.sleep(0.4)
        return Response(204, [])

    application = build(echo, find_handler=lambda *_: handle)
    with serve(application, loop_factory=WatchedLoop) as client:
        for _ in range(20):
            assert client.get("/").status == 204
            if slow_callbacks:
                break

    assert len(slow_callbacks) == 1
    slow_callbacks.clear()


@pytest.mark.parametrize("is_busy", [busy_cpu, busy_threads])
def test_a_callback_that_waits_for_other_programs_and_threads_is_not(
    is_busy: Callable[[], "contextmanager[None]"], caplog: pytest.LogCaptureFixture
) -> None:
    with is_busy(), watch_callbacks() as found:
        for _ in range(100):
            call_back(lambda: compute(0.07))
            if logged_callbacks(caplog):  # it had to wait
                break

    assert found == []


def test_a_callback_that_starts_a_process_on_a_busy_machine_is_not() -> None:
    started = []

    with busy_cpu(), watch_callbacks() as found:
        call_back(lambda: started.append(subprocess.Popen(["true"])))

    started[0].wait()
    assert found == []


def test_a_callback_that_the_garbage_collector_interrupts_is_not(caplog: pytest.LogCaptureFixture) -> None:
    garbage = [[number] for number in range(300_000)]

    def collect() -> None:
        ends_at_s = time.thread_time() + 0.15
        while time.thread_time() < ends_at_s:
            gc.collect()

    with watch_callbacks() as found:
        call_back(collect)

    assert logged_callbacks(caplog)
    assert found == []
    assert garbage
