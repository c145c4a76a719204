"""Lets few threads of a process compute at once, and any number wait.

Python runs one thread at a time, and four that want to are twice as fast as sixteen. A thread that waits, for a result
or for a client that sends slowly, steps out of the gate meanwhile.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from queue import SimpleQueue
from threading import local
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


SMALL_BODY = 1 << 16
"""Up to here a body is read before its request enters; a larger one while its thread is outside again."""


class Gate:
    """A fixed number of places."""

    def __init__(self, places: int) -> None:
        self._places: SimpleQueue[None] = SimpleQueue()  # in C, and cheaper than any of threading's locks
        for _ in range(places):
            self._places.put(None)
        self._thread = local()

    def enter(self) -> None:
        """Take a place, once there is one."""
        self._places.get()
        self._thread.is_inside = True

    def leave(self) -> None:
        """Give the place of this thread to another."""
        self._thread.is_inside = False
        self._places.put(None)

    @contextmanager
    def outside(self) -> Iterator[None]:
        """Give the place of this thread, if it has one, to others for as long as it waits."""
        if not getattr(self._thread, "is_inside", False):
            yield
            return
        self.leave()
        try:
            yield
        finally:
            self.enter()


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

    def answer(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        environ["wsgi.input"] = _body(environ, gate)
        gate.enter()
        try:
            return application(environ, start_response)
        finally:
            gate.leave()

    return answer


def _body(environ: "WSGIEnvironment", gate: Gate) -> "BytesIO | PatientInput":
    """Return where to read the body: small ones are here by now, which spares most requests the way out and in."""
    length = environ.get("CONTENT_LENGTH") or ""
    if not (length.isascii() and length.isdigit()) or int(length) > SMALL_BODY:
        return PatientInput(environ["wsgi.input"], gate)
    try:
        return BytesIO(environ["wsgi.input"].read(int(length)) if int(length) else b"")
    except OSError:
        return BytesIO()  # the client went away; whoever reads finds the body too short


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
