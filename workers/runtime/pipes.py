"""Read lines from a child's pipes and write to them, without blocking."""

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

READ_BYTES = 256 << 10
PIECES_PER_WRITE = 64
START_BYTES = 512


@dataclass(frozen=True, slots=True)
class LongLine:
    """Stands for a line that exceeded the limit."""

    start: bytes
    """Its first START_BYTES."""


class LineSplitter:
    """Splits a stream into lines. It holds at most one unfinished line, of limited length."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        # One block of memory: many small parts, of several children, would fragment the heap.
        self._unfinished = bytearray()
        self._too_long: LongLine | None = None

    def feed(self, data: bytes) -> Iterator[bytes | LongLine]:
        """Yield the complete lines, with a LongLine for each one that exceeded the limit."""
        *complete, rest = data.split(b"\n")
        for end in complete:
            yield self._finish(end)
        self._add(rest)

    def rest(self) -> bytes:
        """Return the last line if it is unterminated; empty if there is none or it exceeded the limit."""
        line = self._finish(b"")
        return line if isinstance(line, bytes) else b""

    def _add(self, part: bytes) -> None:
        if self._too_long:
            return
        if len(self._unfinished) + len(part) > self._limit:
            self._too_long = LongLine(bytes(self._unfinished[:START_BYTES] + part[:START_BYTES])[:START_BYTES])
            self._unfinished.clear()
        else:
            self._unfinished += part

    def _finish(self, end: bytes) -> bytes | LongLine:
        if not self._unfinished and not self._too_long and len(end) <= self._limit:
            return end
        self._add(end)
        line = self._too_long or bytes(self._unfinished)
        self._unfinished.clear()
        self._too_long = None
        return line


class PipeReader:
    """Calls back with the data that arrives in a pipe."""

    def __init__(
        self, descriptor: int, on_data: Callable[[bytes], None], on_end: Callable[[], None] = lambda: None
    ) -> None:
        """`on_end` is called when the other side has closed the pipe."""
        self._descriptor = descriptor
        self._on_data = on_data
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        os.set_blocking(descriptor, False)
        self._loop.add_reader(descriptor, self._read)

    def read_available(self) -> None:
        """Read once what has arrived and the loop has not reported yet."""
        if self._descriptor >= 0:
            self._read()

    def drain(self) -> None:
        """Read what is left from a process that has ended, and close the pipe."""
        while self._descriptor >= 0 and self._read():
            pass
        self.close()

    def close(self) -> None:
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _read(self) -> bool:
        """Read once; return whether there was data."""
        try:
            data = os.read(self._descriptor, READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self.close()
            self._on_end()
            return False
        self._on_data(data)
        return True


class PipeWriter:
    """Writes to a pipe without blocking. Lines of one loop iteration are written together."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._unsent: deque[bytes | memoryview] = deque()
        # Whether `_flush` will be called: at the end of this loop iteration, or when the pipe has room.
        self._is_scheduled = False
        self._is_full = False
        self._closes_when_empty = False
        self._loop = asyncio.get_running_loop()
        os.set_blocking(descriptor, False)

    def write(self, data: bytes) -> None:
        """Send data. None is lost unless the other side closes the pipe."""
        if self._descriptor < 0 or self._closes_when_empty:
            return
        self._unsent.append(data)
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._flush)

    def close_when_empty(self) -> None:
        """Close the pipe once all data is written."""
        self._closes_when_empty = True
        if not self._unsent:
            self.close()

    def close(self) -> None:
        if self._descriptor >= 0:
            self._loop.remove_writer(self._descriptor)
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = -1
            self._unsent.clear()

    def _flush(self) -> None:
        """Write until the pipe is full or nothing is left."""
        if self._descriptor < 0:
            return
        try:
            while self._unsent:
                self._drop(os.writev(self._descriptor, list(islice(self._unsent, PIECES_PER_WRITE))))
        except BlockingIOError:
            if not self._is_full:
                self._is_full = True
                self._loop.add_writer(self._descriptor, self._flush)
            return
        except OSError:  # the child closed its side; its end is reported elsewhere
            self.close()
            return
        self._is_scheduled = False
        if self._is_full:
            self._is_full = False
            self._loop.remove_writer(self._descriptor)
        if self._closes_when_empty:
            self.close()

    def _drop(self, written: int) -> None:
        while self._unsent and written >= len(self._unsent[0]):
            written -= len(self._unsent.popleft())
        if written:
            self._unsent[0] = memoryview(self._unsent[0])[written:]
