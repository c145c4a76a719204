"""Run calls on one event loop: coroutines, and functions in threads. It continues between them."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import signal
import stat
import sys
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from runqy_sdk.calls import Call, TaskCall, respond
from runqy_sdk.handlers import Loader
from runqy_sdk.runner import Program, load_value


class AsyncRunner:
    """Reads what the worker sends while tasks run, so that a cancelled coroutine is interrupted at once."""

    def __init__(self, program: Program, descriptor: int) -> None:
        self._program = program
        self._input = os.fdopen(descriptor, "rb")
        self._loaded: Any = None
        self._waiting: deque[Call] = deque()
        self._running: dict[Call, asyncio.Task[str]] = {}
        self._threads: ThreadPoolExecutor | None = None
        self._reading: asyncio.Task[None] | None = None
        self._is_ending = False

    def run(self) -> None:
        if not self._program.handler.is_async:
            self._threads = ThreadPoolExecutor(self._program.concurrency, "runqy-task")
            # Not on the loop: a function that loads may run one of its own.
            try:
                self._loaded = load_value(self._program.loader)
            except Exception:  # noqa: BLE001 (whatever the program raises)
                self._program.send_load_failure()
                sys.exit(1)
        asyncio.run(self._run())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end, number)
        if self._threads is None:
            try:
                self._loaded = await load_async(self._program.loader)
            except Exception:  # noqa: BLE001 (whatever the program raises)
                self._program.send_load_failure()
                sys.exit(1)
        self._program.send_ready()
        self._reading = loop.create_task(self._read())
        self._start_calls()  # or end, by a signal that came while the program loaded
        with contextlib.suppress(asyncio.CancelledError):  # by a signal
            await self._reading
        while self._running:
            await asyncio.wait(self._running.values())

    async def _read(self) -> None:
        read_line: Callable[[], Awaitable[bytes]] = partial(asyncio.to_thread, self._input.readline)
        if stat.S_ISFIFO(os.fstat(self._input.fileno()).st_mode):  # else the program is tried by hand, without a worker
            reader = asyncio.StreamReader(limit=1 << 30)  # the server limits payloads
            protocol = asyncio.StreamReaderProtocol(reader)
            await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, self._input)
            read_line = reader.readline
        make_call = self._program.call_maker(self._loaded)
        while data := await read_line():
            line = self._program.read_line(data)
            if line is None:
                continue
            if "control" in line:
                self._cancel(str(line["task_id"]))
            else:
                self._waiting.append(make_call(line))
                self._start_calls()

    def _start_calls(self) -> None:
        while self._waiting and len(self._running) < self._program.concurrency and not self._is_ending:
            call = self._waiting.popleft()
            self._running[call] = running = asyncio.ensure_future(self._respond(call))
            running.add_done_callback(partial(self._finish, call))
        if self._is_ending and not self._running and self._reading:
            self._reading.cancel()

    async def _respond(self, call: Call) -> str:
        if self._threads is None:
            return await respond_async(call)
        return await asyncio.get_running_loop().run_in_executor(self._threads, respond, call)

    def _finish(self, call: Call, running: asyncio.Task[str]) -> None:
        del self._running[call]
        # One that was cancelled before its first step has caught nothing.
        responses = call.fail(asyncio.CancelledError()) if running.cancelled() else running.result()
        self._program.output.send(responses)
        self._start_calls()

    def _cancel(self, task_id: str) -> None:
        call = next((call for call in (*self._running, *self._waiting) if call.has_task(task_id)), None)
        if call is None:  # it has ended
            return
        self._program.cancel(call, task_id)
        if not call.is_cancelled:
            return
        if call in self._waiting:
            self._waiting.remove(call)
            self._program.output.send(call.fail(asyncio.CancelledError()))
        elif self._threads is None:  # a thread sees the flag only
            self._running[call].cancel()

    def _end(self, number: int) -> None:
        if self._is_ending:
            os._exit(128 + number)
        self._is_ending = True
        self._start_calls()


async def load_async(loader: Loader | None) -> Any:
    """Return what `@load` returns. Raise what it raises."""
    loaded = loader() if loader else None
    return await loaded if inspect.isawaitable(loaded) else loaded


async def respond_async(call: Call) -> str:
    """Run a call of a coroutine and return the responses, whatever the handler raises, also when it is cancelled."""
    try:
        value = call.invoke()
        if inspect.isasyncgen(value) and isinstance(call, TaskCall):
            async with contextlib.aclosing(value):
                await call.consume_async(value)
            value = None
        elif inspect.isawaitable(value):  # else no member of a batch has a valid payload
            value = await value
    except (Exception, SystemExit, asyncio.CancelledError) as error:  # noqa: BLE001 (whatever the handler raises is the task's error)
        return call.fail(error)
    return call.succeed(value)
