"""The threads of a web process: few compute at once, and any number wait.

Python runs one thread at a time, and four that want to are twice as fast as sixteen. So requests queue for a place
before a thread takes them up, and a thread that waits, for a result or for a client that sends slowly, gives its place
to the next. The thread that ended last is the first to go on, while what it touched is still in the processor's caches.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

import structlog

log = structlog.get_logger(__name__)

RELIEF_S = 0.05
"""A request that was first in the queue for so long gets a place too many: whoever has the others is stuck."""


class Job:
    """Something that a thread does, and what came of it: as much of a future as gunicorn asks for.

    Python's own has a lock and a condition each, whose making takes as long as reading a request's body and its key.
    """

    __slots__ = ("_args", "_callbacks", "_do", "_error", "_is_done", "_result")

    def __init__(self, do: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._do, self._args = do, args
        self._result: Any = None
        self._error: BaseException | None = None
        self._is_done = False
        self._callbacks: list[Callable[[Job], object]] = []

    def run(self) -> None:
        """Do it, and keep what came of it for whoever asks."""
        try:
            self._result = self._do(*self._args)
        except BaseException as error:  # noqa: BLE001 (a pool hands every error on)
            self._error = error
        self._is_done = True
        self._call_back()

    def add_done_callback(self, callback: Callable[["Job"], object]) -> None:
        """Call something with this once it is done; on the thread that did it, or here if it is done already."""
        self._callbacks.append(callback)
        if self._is_done:
            self._call_back()

    def done(self) -> bool:
        """Tell whether it is done."""
        return self._is_done

    def cancelled(self) -> bool:
        """Tell no: what was asked for is done."""
        return False

    def result(self) -> Any:
        """Return what came of it, or raise its error. It must be done."""
        if self._error is not None:
            raise self._error
        return self._result

    def _call_back(self) -> None:
        """Call whoever wants to know. Each is taken out by one thread only, though two may come here at once."""
        while self._callbacks:
            try:
                callback = self._callbacks.pop()
            except IndexError:
                return
            try:
                callback(self)
            except Exception:
                log.exception("callback_failed")  # the thread goes on, as with Python's futures


class RequestThreads:
    """Takes the place of gunicorn's pool of threads."""

    def __init__(self, places: int, most: int) -> None:
        """Take how many threads may compute at once, and how many there may be with those that wait."""
        self._places = places
        self._most = most
        self._lock = threading.Lock()
        self._inside = 0
        self._count = 0
        self._idle: list[SimpleQueue[Job]] = []
        self._queue: deque[Job] = deque()
        self._has_queue = threading.Event()
        self._own = threading.local()
        threading.Thread(target=self._relieve, name="runqy-relief", daemon=True).start()

    def submit(self, do: Callable[..., Any], *args: Any) -> Job:
        """Let a thread do something as soon as there is a place."""
        job = Job(do, args)
        with self._lock:
            self._queue.append(job)
            if self._inside < self._places:
                self._start_next()
            elif not self._has_queue.is_set():
                self._has_queue.set()
        return job

    @contextmanager
    def outside(self) -> Iterator[None]:
        """Give the place of this thread to the next for as long as it waits. It comes back without queueing again."""
        if not getattr(self._own, "is_ours", False):
            yield
            return
        with self._lock:
            self._inside -= 1
            self._start_next()
        try:
            yield
        finally:
            with self._lock:
                self._inside += 1

    def shutdown(self, wait: bool = True) -> None:
        """Do nothing: gunicorn has waited for its requests by now, and the threads end with the process."""

    def _start_next(self) -> None:
        """Give a place to the first in the queue, if there is a thread for it. Called with the lock held."""
        if not self._queue or (not self._idle and self._count >= self._most):
            return
        self._inside += 1
        job = self._queue.popleft()
        if self._idle:
            self._idle.pop().put(job)
            return
        self._count += 1
        threading.Thread(target=self._work, args=[job], name=f"runqy-request-{self._count}", daemon=True).start()

    def _work(self, job: Job) -> None:
        """Do one thing after another."""
        self._own.is_ours = True
        letterbox: SimpleQueue[Job] = SimpleQueue()
        while True:
            job.run()
            with self._lock:
                self._inside -= 1
                self._idle.append(letterbox)
                if self._inside < self._places:
                    self._start_next()
            job = letterbox.get()

    def _relieve(self) -> None:
        """See that the queue moves even while all places are held by threads that wait without saying so."""
        while self._has_queue.wait():
            first = self._first()
            time.sleep(RELIEF_S)
            with self._lock:
                if not self._queue:
                    self._has_queue.clear()
                elif self._queue[0] is first:
                    self._start_next()

    def _first(self) -> Job | None:
        """Return what is first in the queue."""
        with self._lock:
            return self._queue[0] if self._queue else None


_threads: RequestThreads | None = None


def open_threads(places: int, most: int) -> RequestThreads:
    """Return the threads of this process."""
    global _threads  # noqa: PLW0603 (a process has one set)
    _threads = RequestThreads(places, most)
    return _threads


@contextmanager
def waiting() -> Iterator[None]:
    """Wait, on any thread, without keeping others from computing."""
    if _threads is None:
        yield
        return
    with _threads.outside():
        yield
