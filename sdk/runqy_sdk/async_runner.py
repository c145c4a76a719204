"""Run the tasks of a coroutine on one event loop, which continues between them."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import signal
import sys
from typing import Any

from runqy_sdk.context import Context, set_current_context
from runqy_sdk.handlers import Handler, Loader
from runqy_sdk.protocol import Output, ready_line
from runqy_sdk.runner import Line, cancellation, describe_failure, load_failure, read_line, success


class AsyncRunner:
    """Reads what the worker sends while a task runs, so that a cancelled one is interrupted at once."""

    def __init__(self, handler: Handler, loader: Loader | None, descriptor: int, output: Output) -> None:
        self._handler = handler
        self._loader = loader
        self._input = os.fdopen(descriptor, "rb")
        self._output = output
        self._context: Context | None = None
        self._running: asyncio.Task[str] | None = None
        self._cancelled_ids: set[str] = set()
        self._is_ending = False

    def run(self) -> None:
        asyncio.run(self._run())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        # None ends the loop.
        self._tasks: asyncio.Queue[Line | None] = asyncio.Queue()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end, number)
        try:
            loaded = await load_async(self._loader)
        except Exception:  # noqa: BLE001 (whatever the program raises)
            self._output.send(load_failure())
            sys.exit(1)
        self._output.send(ready_line())
        reading = asyncio.create_task(self._read())
        while (line := await self._tasks.get()) is not None and not self._is_ending:
            self._context = context = Context(line, loaded=loaded, send=self._output.send)
            self._running = asyncio.create_task(respond_async(context, self._handler, line.get("payload")))
            if context.task_id in self._cancelled_ids:  # before it was its turn
                context.cancelled = True
                self._running.cancel()
            if self._tasks.empty():
                self._cancelled_ids.clear()
            try:
                response = await self._running
            except asyncio.CancelledError:  # cancelled before its first step
                response = json.dumps(cancellation(context))
            self._context = self._running = None
            self._output.send_line(response)
        reading.cancel()

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=1 << 30)  # the server limits payloads
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), self._input)
        while data := await reader.readline():
            line = read_line(data, self._output)
            if line is None:
                continue
            if "control" not in line:
                self._tasks.put_nowait(line)
            elif self._context is not None and self._running and line["task_id"] == self._context.task_id:
                self._context.cancelled = True
                self._running.cancel()
            else:
                self._cancelled_ids.add(str(line["task_id"]))
        self._tasks.put_nowait(None)

    def _end(self, number: int) -> None:
        if self._is_ending:
            os._exit(128 + number)
        self._is_ending = True
        self._tasks.put_nowait(None)


async def load_async(loader: Loader | None) -> Any:
    """Return what `@load` returns. Raise what it raises."""
    loaded = loader() if loader else None
    return await loaded if inspect.isawaitable(loaded) else loaded


async def respond_async(context: Context, handler: Handler, payload: Any) -> str:
    """Run a task and return its response, whatever the handler raises, also when the worker cancels it."""
    set_current_context(context)
    try:
        value = handler.call(payload, context)
        if inspect.isasyncgen(value):
            async for chunk in value:
                context.chunk(chunk)
            return success(context, None)
        return success(context, await value)
    except asyncio.CancelledError as error:
        # The handler may also have awaited a task that it cancelled itself.
        return json.dumps(cancellation(context) if context.cancelled else describe_failure(context, handler, error))
    except Exception as error:  # noqa: BLE001 (whatever the handler raises is the task's error)
        return json.dumps(describe_failure(context, handler, error))
