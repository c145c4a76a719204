"""The output and progress of a run, until Redis has stored them."""

from runqy.broker.tasks.lease import LeasedTask
from runqy.broker.tasks.output import MAX_BYTES, OutputChunk
from workers.runtime.redaction import secrets

_LINE_ENDS = (b"\n", b"\r")


class RunOutput:
    """The end of a run's output, from the beginning of a line, as far as it is not stored yet."""

    __slots__ = ("_dropped", "_is_cut", "_offset", "_partial", "_printed", "_progress", "_unconfirmed", "is_shared")

    def __init__(self) -> None:
        # Whether the child had other tasks when something was printed.
        self.is_shared = False
        # Complete lines, not redacted yet.
        self._printed = bytearray()
        # The beginning of an unfinished line on stderr. It is not sent before its end, because it may end within a
        # secret.
        self._partial = b""
        # Whether the beginning of the unfinished line was dropped.
        self._is_cut = False
        # The number of bytes that were dropped before `_printed`.
        self._dropped = 0
        # Redacted text that was sent or is sent next.
        self._unconfirmed = b""
        # The number of bytes that the run printed before `_unconfirmed`.
        self._offset = 0
        self._progress = b""

    def __len__(self) -> int:
        return len(self._printed) + len(self._partial) + len(self._unconfirmed)

    @property
    def is_stored(self) -> bool:
        """Return whether everything is stored, except for an unfinished line."""
        return not (self._printed or self._unconfirmed or self._dropped or self._progress)

    def add_line(self, line: bytes, limit: int = MAX_BYTES) -> None:
        """Add a line of stdout, without its end. At least the last `limit` bytes of output are kept."""
        self._add(line + b"\n", limit)

    def add_stderr(self, data: bytes, limit: int = MAX_BYTES) -> None:
        """Add data from stderr. At least the last `limit` bytes of output are kept."""
        if self._is_cut:
            data = self._drop_to_line_end(data)
        end = max(map(data.rfind, _LINE_ENDS)) + 1
        if end:
            self._add(self._partial + data[:end], limit)
            self._partial = data[end:]
        else:
            self._partial += data
        if len(self._partial) > MAX_BYTES:
            self._dropped += len(self._printed) + len(self._partial)
            self._printed.clear()
            self._partial, self._is_cut = b"", True

    def set_progress(self, progress: bytes) -> None:
        self._progress = progress

    def next_chunk(self, task: LeasedTask, limit: int = MAX_BYTES, *, is_final: bool = False) -> OutputChunk:
        """Return what is not stored yet, at most the last `limit` bytes. `is_final` includes an unfinished line."""
        if is_final and (self._partial or self._is_cut):
            self._add(self._partial or b"\n", limit)
            self._partial, self._is_cut = b"", False
        if self._dropped:
            self._offset += len(self._unconfirmed) + self._dropped
            self._unconfirmed, self._dropped = b"", 0
        if self._printed:
            self._unconfirmed += secrets.redact(self._printed.decode(errors="replace")).encode()
            self._printed.clear()
        if excess := max(len(self._unconfirmed) - limit, 0):
            start = _line_start(self._unconfirmed, excess)
            self._offset += start
            self._unconfirmed = self._unconfirmed[start:]
        return OutputChunk(
            lease=task.lease,
            offset=self._offset,
            text=self._unconfirmed,
            is_shared=self.is_shared,
            progress=self._progress,
            retention_s=task.message.retention,
        )

    def confirm(self, chunk: OutputChunk) -> None:
        stored = chunk.offset + len(chunk.text) - self._offset
        if stored > 0:
            self._unconfirmed = self._unconfirmed[stored:]
            self._offset += stored
        if self._progress == chunk.progress:
            self._progress = b""

    def _drop_to_line_end(self, data: bytes) -> bytes:
        """Drop the rest of a cut line, which may begin within a secret. Return its line end and what follows."""
        ends = [at for end in _LINE_ENDS if (at := data.find(end)) >= 0]
        self._is_cut = not ends
        dropped = min(ends, default=len(data))
        self._dropped += dropped
        return data[dropped:]  # with the line end: a gap is marked only before text

    def _add(self, data: bytes, limit: int) -> None:
        """Add complete lines. At least the last `limit` bytes are kept."""
        self._printed += data
        # Twice the limit, so that a flood of output does not move the kept bytes for each line.
        if len(self._printed) > 2 * limit:
            start = _line_start(self._printed, len(self._printed) - limit)
            self._dropped += start
            del self._printed[:start]


def _line_start(text: bytes | bytearray, index: int) -> int:
    """Return where the first line at or after an index begins; the length of the text if there is none."""
    end = text.find(b"\n", max(index - 1, 0)) + 1
    return end or len(text)
