"""The chunks that a run has streamed."""

from runqy.broker.tasks.chunks import MAX_CHUNK_BYTES, MAX_CHUNKS, MAX_RUN_BYTES, ChunkBatch
from runqy.broker.tasks.lease import LeasedTask


class RunStream:
    """The chunks of a run, in order. All are kept: together they are the result of a run that returns none."""

    __slots__ = ("_chunks", "_size", "_stored", "_stored_size", "run_number")

    def __init__(self, run_number: int) -> None:
        self.run_number = run_number
        self._chunks: list[bytes] = []
        self._size = 0
        # How many chunks are stored, and their size.
        self._stored = 0
        self._stored_size = 0

    @property
    def unstored_bytes(self) -> int:
        return self._size - self._stored_size

    @property
    def is_stored(self) -> bool:
        return self._stored == len(self._chunks)

    def add(self, chunk: bytes | None) -> str:
        """Add a chunk. Return which limit it exceeds; empty if it exceeds none."""
        if chunk is None or len(chunk) > MAX_CHUNK_BYTES:
            size = "too many" if chunk is None else f"{len(chunk):,}"
            return f"chunk {len(self._chunks) + 1:,} has {size} bytes; a chunk may have {MAX_CHUNK_BYTES:,}"
        if len(self._chunks) == MAX_CHUNKS:
            return f"the task streamed more than {MAX_CHUNKS:,} chunks, the limit of a run"
        if self._size + len(chunk) > MAX_RUN_BYTES:
            return f"the task streamed more than {MAX_RUN_BYTES:,} bytes, the limit of a run"
        self._chunks.append(chunk)
        self._size += len(chunk)
        return ""

    def next_batch(self, task: LeasedTask, limit: int) -> ChunkBatch:
        """Return chunks that are not stored yet: at most `limit` bytes, but at least one."""
        end, size = self._stored, 0
        while end < len(self._chunks) and (size == 0 or size + len(self._chunks[end]) <= limit):
            size += len(self._chunks[end])
            end += 1
        return ChunkBatch(
            lease=task.lease,
            run_number=self.run_number,
            offset=self._stored,
            entries=tuple(self._chunks[self._stored : end]),
            retention_s=task.message.retention,
        )

    def confirm(self, stored: int) -> None:
        """Record how many chunks are stored: fewer than before if Redis lost some."""
        first, end = sorted((stored, self._stored))
        changed = sum(map(len, self._chunks[first:end]))
        self._stored_size += changed if stored > self._stored else -changed
        self._stored = stored

    def join(self) -> bytes:
        """Return the JSON of all chunks: texts as one text, others as a list; null if there are none."""
        if not self._chunks:
            return b"null"
        if all(chunk.startswith(b'"') for chunk in self._chunks):
            return b'"%b"' % b"".join(chunk[1:-1] for chunk in self._chunks)
        return b"[%b]" % b",".join(self._chunks)
