"""The process's event loop for threads that block: they run coroutines on it, and wait for the outcome.

It is a thread of its own, started by the first call. A forked process starts another one.
"""

import asyncio
import atexit
import contextlib
import contextvars
import os
import threading
from collections.abc import Coroutine
from typing import Any, Generic, TypeVar

import uvloop

T = TypeVar("T")

THREAD_NAME = "runqy-event-loop"
CANCEL_WAIT_S = 1.0
"""How long coroutines that were cancelled may take to end."""


class LoopStopped(Exception):
    """The event loop has stopped; the coroutine did not run, or not to its end."""

    def __init__(self, *, has_begun: bool) -> None:
        super().__init__()
        self.has_begun = has_begun


class DeadlineExceeded(Exception):
    """The coroutine took too long, and was cancelled."""


class LoopThread:
    """An event loop on a daemon thread."""

    def __init__(self) -> None:
        self._loop = uvloop.new_event_loop()
        self._calls: set[_Call[Any]] = set()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._serve, name=THREAD_NAME, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T], deadline_s: float) -> T:
        """Run a coroutine on the loop, with this thread's context variables, and return its outcome.

        Raise what the coroutine raises, DeadlineExceeded after `deadline_s`, or LoopStopped. A thread that runs an
        event loop itself must not wait for another one: there it raises RuntimeError.
        """
        if is_event_loop_running():
            coroutine.close()
            raise RuntimeError(f"This thread runs an event loop: await {coroutine!r} there.")
        call = _Call(coroutine, self._loop)
        self._calls.add(call)
        try:
            self._loop.call_soon_threadsafe(self._start, call)
        except RuntimeError:  # it is closed
            call.abandon()
        try:
            if not call.has_ended.acquire(timeout=deadline_s):
                self._cancel(call)
        except BaseException:  # Ctrl-C
            self._cancel(call)
            raise
        finally:
            self._calls.discard(call)
        return call.outcome()

    def stop(self) -> None:
        """Stop the loop. Calls that wait for it raise LoopStopped, and so does each later one."""
        self._is_stopping = True
        try:
            self._loop.call_soon_threadsafe(self._loop.stop)
        except RuntimeError:
            return
        self._thread.join(2 * CANCEL_WAIT_S)  # a daemon: a coroutine that blocks keeps no process from ending

    def _serve(self) -> None:
        try:
            self._loop.run_forever()
        finally:
            self._is_stopping = True
            tasks = asyncio.all_tasks(self._loop)
            for task in tasks:
                task.cancel()
            if tasks:
                self._loop.run_until_complete(asyncio.wait(tasks, timeout=CANCEL_WAIT_S))
            self._loop.close()
            for call in list(self._calls):
                call.abandon()

    def _start(self, call: "_Call[Any]") -> None:
        if self._is_stopping:  # nobody would cancel what begins now
            call.abandon()
        else:
            call.start()

    def _cancel(self, call: "_Call[Any]") -> None:
        """Cancel a call, and give its coroutine a moment to end."""
        call.is_late = True  # set here: a coroutine that blocks the loop must not pass for one that never ran
        try:
            self._loop.call_soon_threadsafe(call.cancel)
        except RuntimeError:  # it is closed, and has ended the call
            return
        call.has_ended.acquire(timeout=CANCEL_WAIT_S)


class _Call(Generic[T]):
    """A coroutine, and the thread that waits for it."""

    def __init__(self, coroutine: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> None:
        self._coroutine = coroutine
        self._loop = loop
        self._context = contextvars.copy_context()
        self._task: asyncio.Task[T] | None = None
        self.is_late = False
        # Why it could not even start.
        self._error: Exception | None = None
        # Released when it has ended. A lock is the cheapest thing on which one thread waits for another.
        self.has_ended = threading.Lock()
        self.has_ended.acquire()

    def start(self) -> None:
        try:
            self._task = self._loop.create_task(self._coroutine, context=self._context)
        except Exception as error:  # noqa: BLE001 (raised where its outcome is awaited)
            self._error = error
            self._release()
        else:
            self._task.add_done_callback(self._release)

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def abandon(self) -> None:
        """End it, since the loop runs no more."""
        if self._task is None:
            self._coroutine.close()
        self._release()

    def outcome(self) -> T:
        """Return or raise the outcome of the coroutine. Raise DeadlineExceeded if it was cancelled, LoopStopped."""
        if self._error is not None:
            raise self._error
        task = self._task
        if task is not None and task.done() and not task.cancelled():
            return task.result()
        if self.is_late:
            raise DeadlineExceeded
        raise LoopStopped(has_begun=task is not None)

    def _release(self, _: object = None) -> None:
        # Called twice, by two threads, when the loop is closed just as a call begins.
        with contextlib.suppress(RuntimeError):
            self.has_ended.release()


_lock = threading.Lock()
_current: LoopThread | None = None
_inherited: list[LoopThread] = []
"""Those of parent processes. They are kept, since to delete a loop closes it."""


def loop_thread() -> LoopThread:
    """Return the thread with the process's event loop, which is started first if necessary."""
    global _current  # noqa: PLW0603 (a process has one)
    if _current is None:
        with _lock:
            if _current is None:
                _current = LoopThread()
                atexit.register(_current.stop)
    return _current


def is_event_loop_running() -> bool:
    """Return whether this thread runs an event loop now."""
    return asyncio._get_running_loop() is not None  # noqa: SLF001 (`get_running_loop` raises, which costs more)


def _forget_loop() -> None:
    """Start anew in a forked process: it has no other thread than the one that forked."""
    global _current, _lock
    if _current is not None:
        atexit.unregister(_current.stop)
        _inherited.append(_current)
    _current, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget_loop)
