"""Threads for calls that block: one for each call in progress, used again, and ended when they had nothing to do."""

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

Job = Callable[[], None]


class ThreadPool:
    """Runs jobs at once, each on a thread of its own, so that one that hangs makes no other one wait.

    The thread that became free last gets the next job: at rest, one is left.
    """

    def __init__(self, name: str, *, idle_s: float, on_end: Callable[[], None] = lambda: None) -> None:
        """A thread without a job for `idle_s` ends, after calling `on_end`."""
        self._name = name
        self._idle_s = idle_s
        self._on_end = on_end
        self._lock = threading.Lock()
        self._free: list[SimpleQueue[Job]] = []

    def start(self, job: Job) -> None:
        """Run a job, which handles its own errors."""
        with self._lock:
            inbox = self._free.pop() if self._free else None
        if inbox is None:
            inbox = SimpleQueue()
            # A daemon: a job that hangs does not keep the process from ending.
            threading.Thread(target=self._serve, args=[inbox], name=self._name, daemon=True).start()
        inbox.put(job)

    def _serve(self, inbox: SimpleQueue[Job]) -> None:
        try:
            while job := self._next_job(inbox):
                job()
                with self._lock:
                    self._free.append(inbox)
        finally:
            self._on_end()

    def _next_job(self, inbox: SimpleQueue[Job]) -> Job | None:
        """Return None if the thread is to end."""
        try:
            return inbox.get(timeout=self._idle_s)
        except Empty:
            with self._lock:
                if inbox in self._free:
                    self._free.remove(inbox)
                    return None
        return inbox.get()  # it has just been promised one
