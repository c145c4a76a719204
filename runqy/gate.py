"""Lets few threads of a process compute at once, and any number wait.

Python runs one thread at a time, and four that want to are twice as fast as sixteen. A thread that waits, for a result
or for a client that sends slowly, steps out of the gate meanwhile.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from threading import local
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class Gate:
    """A fixed number of places."""

    def __init__(self, places: int) -> None:
        self._places: SimpleQueue[None] = SimpleQueue()  # in C, and cheaper than any of threading's locks
        for _ in range(places):
            self._places.put(None)
        self._thread = local()

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Hold a place, once there is one."""
        self._places.get()
        self._thread.is_inside = True
        try:
            yield
        finally:
            self._thread.is_inside = False
            self._places.put(None)

    @contextmanager
    def outside(self) -> Iterator[None]:
        """Give the place of this thread, if it has one, to others for as long as it waits."""
        if not getattr(self._thread, "is_inside", False):
            yield
            return
        self._thread.is_inside = False
        self._places.put(None)
        try:
            yield
        finally:
            self._places.get()
            self._thread.is_inside = True


class PatientInput:
    """The body of a request, read outside of the gate: the client may be slow."""

    def __init__(self, stream: BinaryIO, gate: Gate) -> None:
        self._stream = stream
        self._gate = gate

    def read(self, size: int = -1) -> bytes:
        """Read some or all of the body."""
        with self._gate.outside():
            return self._stream.read(size)

    def readline(self, size: int = -1) -> bytes:
        """Read one line of the body."""
        with self._gate.outside():
            return self._stream.readline(size)

    def __iter__(self) -> Iterator[bytes]:
        """Give the lines of the body."""
        return iter(self.readline, b"")

    def __getattr__(self, name: str) -> Any:
        """Leave the rest to the server's own stream."""
        return getattr(self._stream, name)


def gated(application: "WSGIApplication", gate: Gate) -> "Callable[..., Iterable[bytes]]":
    """Return an application whose requests pass the gate."""

    def enter(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        environ["wsgi.input"] = PatientInput(environ["wsgi.input"], gate)
        with gate.inside():
            return application(environ, start_response)

    return enter


@contextmanager
def waiting() -> Iterator[None]:
    """Wait outside of this process's gate."""
    if _gate is None:
        yield
        return
    with _gate.outside():
        yield


def open_gate(application: "WSGIApplication", places: int) -> "Callable[..., Iterable[bytes]]":
    """Put an application behind this process's gate."""
    global _gate  # noqa: PLW0603 (a process has one)
    _gate = Gate(places)
    return gated(application, _gate)


_gate: Gate | None = None
