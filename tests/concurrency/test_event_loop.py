"""Threads run coroutines on the process's event loop: outcomes, deadlines, Ctrl-C, its end, forks."""

import asyncio
import contextvars
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from runqy.broker.broker import Broker
from runqy.broker.request import Request
from runqy.broker.scripts import command
from runqy.core.concurrency import event_loop
from runqy.core.concurrency.event_loop import (
    DeadlineExceeded,
    LoopStopped,
    LoopThread,
    is_event_loop_running,
    loop_thread,
)
from runqy.errors import BrokerUnavailable, OutcomeUnknown
from tests.support.fake_redis import FakeRedis
from tests.support.waiting import PATIENCE_S, eventually, wait_until

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    started = LoopThread()
    yield started
    started.stop()


class Recorder:
    """A coroutine that waits for ever, and records what happens to it."""

    def __init__(self) -> None:
        self.began, self.was_canceled = threading.Event(), threading.Event()

    async def wait(self) -> None:
        self.began.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.was_canceled.set()


def test_an_outcome_is_that_of_the_coroutine(loop: LoopThread) -> None:
    async def divide(dividend: int, divisor: int) -> float:
        await asyncio.sleep(0)
        return dividend / divisor

    assert loop.run(divide(6, 2), PATIENCE_S) == 3
    with pytest.raises(ZeroDivisionError):
        loop.run(divide(6, 0), PATIENCE_S)


def test_context_variables_travel_inward_and_not_back(loop: LoopThread) -> None:
    async def replace() -> str:
        found = variable.get()
        variable.set("inner")
        return found

    token = variable.set("outer")
    assert loop.run(replace(), PATIENCE_S) == "outer"
    assert variable.get() == "outer"
    variable.reset(token)


def test_coroutines_of_several_threads_run_at_once(loop: LoopThread) -> None:
    meeting = asyncio.Barrier(8)

    async def meet(number: int) -> int:
        await meeting.wait()
        return number

    with ThreadPoolExecutor(8) as pool:
        assert [*pool.map(lambda number: loop.run(meet(number), PATIENCE_S), range(8))] == [*range(8)]


def test_a_thread_that_runs_a_loop_waits_for_no_other(loop: LoopThread, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_loop, "is_event_loop_running", is_event_loop_running)
    recorder = Recorder()

    async def block() -> None:
        loop.run(recorder.wait(), PATIENCE_S)

    for run in (asyncio.run, lambda coroutine: loop.run(coroutine, PATIENCE_S)):
        with pytest.raises(RuntimeError, match=r"runs an event loop: await <coroutine object Recorder\.wait"):
            run(block())  # a warning would say that the inner one was never awaited
    assert not recorder.began.is_set()


def test_a_coroutine_that_takes_too_long_is_canceled(loop: LoopThread) -> None:
    recorder = Recorder()

    with pytest.raises(DeadlineExceeded):
        loop.run(recorder.wait(), 0.05)

    assert recorder.was_canceled.wait(PATIENCE_S)


def test_a_coroutine_that_blocks_the_loop_is_too_late_too(loop: LoopThread, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_loop, "CANCEL_WAIT_S", 0.05)
    held = threading.Event()

    async def block() -> None:
        held.wait(PATIENCE_S)

    with pytest.raises(DeadlineExceeded):
        loop.run(block(), 0.05)
    held.set()


def test_an_outcome_that_comes_just_in_time_is_not_lost(loop: LoopThread) -> None:
    async def finish() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "done"
        return ""

    assert loop.run(finish(), 0.05) == "done"


INTERRUPTED = """
import asyncio, os, signal, threading
from runqy.core.concurrency.event_loop import loop_thread

async def wait():
    try:
        while True:  # Python overlooks a signal that comes just before a thread begins to wait for a lock
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(1)
    finally:
        print("canceled", flush=True)

try:
    loop_thread().run(wait(), 60)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
ENDS_BESIDE_A_CALL = """
import asyncio, atexit, threading
from runqy.core.concurrency.event_loop import LoopStopped, loop_thread

began = threading.Event()

async def wait():
    began.set()
    await asyncio.Event().wait()

def run():
    try:
        loop_thread().run(wait(), 600)
    except LoopStopped:
        print("stopped", flush=True)

caller = threading.Thread(target=run, daemon=True)
atexit.register(caller.join)  # after the loop, which registers later, has stopped
caller.start()
began.wait()
"""


@pytest.mark.parametrize(
    ("code", "printed"), [(INTERRUPTED, "canceled\ninterrupted\n"), (ENDS_BESIDE_A_CALL, "stopped\n")]
)
def test_a_process_ends_at_once(code: str, printed: str) -> None:
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S, check=True)

    assert (ended.stdout, ended.stderr) == (printed, "")


def test_a_loop_that_stops_ends_what_waits_for_it_and_what_comes_later() -> None:
    loop, recorder = LoopThread(), Recorder()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(loop.run, recorder.wait(), PATIENCE_S)
        assert recorder.began.wait(PATIENCE_S)

        loop.stop()

        with pytest.raises(LoopStopped):
            waiting.result(PATIENCE_S)
    assert recorder.was_canceled.is_set()
    with pytest.raises(LoopStopped):
        loop.run(recorder.wait(), PATIENCE_S)
    loop.stop()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # threads of other tests may linger
def test_a_forked_process_has_a_loop_of_its_own() -> None:
    async def get_id() -> int:
        return id(asyncio.get_running_loop())

    own = loop_thread().run(get_id(), PATIENCE_S)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, str(loop_thread().run(get_id(), PATIENCE_S)).encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(pid, 0)

    with os.fdopen(reader) as pipe:
        assert int(pipe.read()) != own
    assert loop_thread().run(get_id(), PATIENCE_S) == own


@pytest.mark.parametrize(("words", "error"), [(("GET", "k"), BrokerUnavailable), (("SET", "k", "v"), OutcomeUnknown)])
def test_a_write_whose_deadline_passes_has_an_unknown_outcome(
    words: tuple[str, ...], error: type[BrokerUnavailable]
) -> None:
    held = threading.Event()

    def reply(received: list[bytes]) -> bytes:
        if received[0] in (b"GET", b"SET"):
            held.wait(PATIENCE_S)
        return b"+PONG\r\n"

    request = Request((command(*words, key="k"),), lambda replies: replies[0])
    with FakeRedis(reply) as server:
        broker = Broker(server.target)
        eventually(lambda: broker.run(Request((command("PING", key=None),), lambda replies: replies[0])))
        errors = []
        for work in (request, broker.send(request)):
            with pytest.raises(BrokerUnavailable, match=r"it took longer than 0\.05 s") as raised:
                broker.run(work, deadline_s=0.05)  # type: ignore[arg-type]
            errors.append(type(raised.value))
        held.set()
        broker.close()

    assert errors == [error] * 2


def test_without_its_loop_redis_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = LoopThread()
    stopped.stop()
    monkeypatch.setattr(event_loop, "_current", stopped)
    broker = Broker(FakeRedis(lambda _: b"").target)

    for work in (Request((command("GET", "k", key="k"),), list), broker.nodes()):
        with pytest.raises(BrokerUnavailable, match="the process ends"):
            broker.run(work)  # type: ignore[arg-type]


ENDS_DURING_A_REQUEST = """
import atexit, sys, threading
from runqy.broker.broker import Broker
from runqy.broker.request import Request
from runqy.broker.scripts import command
from runqy.core.environment.connection_urls import RedisTarget
from runqy.errors import BrokerUnavailable

broker = Broker(RedisTarget(addresses=(("127.0.0.1", int(sys.argv[1])),)))
outcomes = {}

def request(name):
    return Request((command(name, "k", key="k"),), lambda replies: replies[0])

def run(what, work):
    try:
        broker.run(work)
    except BrokerUnavailable as error:
        outcomes[what] = f"{type(error).__name__}: {error.reason}"

def report():
    for thread in threads:
        thread.join(10)
    run("later", request("SET"))
    for what in sorted(outcomes):
        print(what, outcomes[what])

work = {name: request(name) for name in ("GET", "SET")}
work |= {f"operation {name}": broker.send(request(name)) for name in work}
threads = [threading.Thread(target=run, args=item, daemon=True) for item in work.items()]
atexit.register(report)
for thread in threads:
    thread.start()
sys.stdin.read()
"""


def test_a_write_under_way_when_the_process_ends_has_an_unknown_outcome() -> None:
    with FakeRedis(lambda received: None) as server:
        command_line = [sys.executable, "-c", ENDS_DURING_A_REQUEST, str(server.target.addresses[0][1])]
        with subprocess.Popen(command_line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            wait_until(lambda: len(server.commands) == 4)
            printed = process.communicate(timeout=PATIENCE_S)[0]

    assert printed.splitlines() == [
        "GET BrokerUnavailable: the process ends",
        "SET OutcomeUnknown: the process ends",
        "later BrokerUnavailable: the process ends",
        "operation GET BrokerUnavailable: the process ends",
        "operation SET OutcomeUnknown: the process ends",
    ]


def test_a_stopped_loop_abandons_a_coroutine_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_loop, "CANCEL_WAIT_S", 0.05)
    loop, began = LoopThread(), threading.Event()

    async def ignore_cancellation() -> None:
        began.set()
        while True:
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(loop.run, ignore_cancellation(), PATIENCE_S)
        assert began.wait(PATIENCE_S)

        loop.stop()

        with pytest.raises(LoopStopped) as raised:
            waiting.result(PATIENCE_S)
    assert raised.value.has_begun


def test_a_call_that_comes_while_the_loop_ends_is_refused() -> None:
    loop, late = LoopThread(), Recorder()
    outcomes: list[Any] = []
    began, is_over = threading.Event(), threading.Event()

    def call() -> None:
        try:
            loop.run(late.wait(), PATIENCE_S)
        except LoopStopped as error:
            outcomes.append(error.has_begun)
        is_over.set()

    async def end_slowly() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            threading.Thread(target=call).start()
            while not is_over.is_set():
                await asyncio.sleep(0.001)

    with ThreadPoolExecutor(1) as pool:
        ending = pool.submit(loop.run, end_slowly(), PATIENCE_S)
        assert began.wait(PATIENCE_S)
        loop.stop()
        with pytest.raises(LoopStopped):
            ending.result(PATIENCE_S)

    assert is_over.wait(PATIENCE_S)
    assert outcomes == [False]
    assert not late.began.is_set()
