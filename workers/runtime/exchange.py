"""Speaks with Redis on a thread of its own, one job after another, so that the event loop never waits."""

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

from runqy.broker.broker import Broker
from runqy.errors import BrokerRefused

T = TypeVar("T")
Job = Callable[[Broker], Any]
Done = Callable[[Any, Exception | None], None]


class Exchange:
    """A broker, and the thread that asks it."""

    def __init__(self, broker: Broker, *, on_refused: Callable[[], None]) -> None:
        self.broker = broker
        self.is_refused = False
        """Redis no longer accepts our credentials."""
        self._on_refused = on_refused
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self._jobs: SimpleQueue[tuple[Job, Done] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="runqy-exchange", daemon=True)
        self._thread.start()

    def submit(self, job: Job, done: Done) -> None:
        """Run a job on the thread, then call back on the loop with its value, or None and what it raised."""
        self._jobs.put((job, done))

    async def run(self, job: Callable[[Broker], T]) -> T:
        """Run a job on the thread and return its value or raise its error."""
        future: asyncio.Future[T] = self._loop.create_future()

        def settle(value: T, error: Exception | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)

        self.submit(job, settle)
        return await future

    def replace(self, broker: Broker) -> None:
        """Ask another broker from now on; the one before is closed after its last job."""
        before, self.broker = self.broker, broker
        self.is_refused = False
        self.submit(lambda _: before.close(), lambda _value, _error: None)

    def close(self) -> None:
        """End the thread after the jobs that wait."""
        self._jobs.put(None)

    def _note_refusal(self) -> None:
        if not self.is_refused:
            self.is_refused = True
            self._on_refused()

    def _work(self) -> None:
        while (item := self._jobs.get()) is not None:
            job, done = item
            value, error = None, None
            try:
                value = job(self.broker)
            except Exception as raised:  # noqa: BLE001 (whoever submitted the job decides what its error means)
                error = raised
            with contextlib.suppress(RuntimeError):  # the loop is closed when the worker itself ends
                if isinstance(error, BrokerRefused):
                    self._loop.call_soon_threadsafe(self._note_refusal, context=self._context)
                self._loop.call_soon_threadsafe(done, value, error, context=self._context)
