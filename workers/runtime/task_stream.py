"""The chunks that a run has streamed."""

import sys
from collections.abc import Sequence

from runqy.broker.tasks.chunks import GAP, MAX_CHUNK_BYTES, MAX_CHUNKS, MAX_RUN_BYTES, ChunkBatch
from runqy.broker.tasks.lease import LeasedTask


class RunStream:
    """The chunks of a run, in order. Together they are the result of a run that returns none.

    They are kept to repeat what Redis did not take, or lost. In place of one that is not kept there is a GAP.
    """

    __slots__ = ("_chunks", "_released", "dropped", "kept_bytes", "run_number", "size", "stored", "unstored_bytes")

    def __init__(self, run_number: int) -> None:
        self.run_number = run_number
        # What was streamed.
        self.size = 0
        # What the kept chunks take in memory.
        self.kept_bytes = 0
        self.unstored_bytes = 0
        # How many chunks were dropped before they were stored.
        self.dropped = 0
        self._chunks: list[bytes] = []
        # How many chunks are stored, and how many of the first ones are not kept any more.
        self.stored = self._released = 0

    @property
    def is_stored(self) -> bool:
        return self.stored == len(self._chunks)

    @property
    def is_kept(self) -> bool:
        return not (self._released or self.dropped)

    def add(self, chunk: bytes | None, *, has_room: bool = True) -> str:
        """Add a chunk. It is dropped if there is no room. Return which limit it exceeds; empty if it exceeds none."""
        if chunk is None or len(chunk) > MAX_CHUNK_BYTES:
            size = "too many" if chunk is None else f"{len(chunk):,}"
            return f"chunk {len(self._chunks) + 1:,} has {size} bytes; a chunk may have {MAX_CHUNK_BYTES:,}"
        if len(self._chunks) == MAX_CHUNKS:
            return f"the task streamed more than {MAX_CHUNKS:,} chunks, the limit of a run"
        if self.size + len(chunk) > MAX_RUN_BYTES:
            return f"the task streamed more than {MAX_RUN_BYTES:,} bytes, the limit of a run"
        self.size += len(chunk)
        if has_room:
            self.kept_bytes += sys.getsizeof(chunk)
        else:
            chunk, self.dropped = GAP, self.dropped + 1
        self._chunks.append(chunk)
        self.unstored_bytes += len(chunk)
        return ""

    def next_batch(self, task: LeasedTask, limit: int) -> ChunkBatch:
        """Return chunks that are not stored yet: at most `limit` bytes, but at least one."""
        end, size = self.stored, 0
        while end < len(self._chunks) and (size == 0 or size + len(self._chunks[end]) <= limit):
            size += len(self._chunks[end])
            end += 1
        return ChunkBatch(
            lease=task.lease,
            run_number=self.run_number,
            offset=self.stored,
            entries=tuple(self._chunks[self.stored : end]),
            retention_s=task.message.retention,
        )

    def confirm(self, stored: int) -> None:
        """Record how many chunks are stored: fewer than before if Redis lost some."""
        first, end = sorted((stored, self.stored))
        changed = sum(map(len, self._chunks[first:end]))
        self.unstored_bytes -= changed if stored > self.stored else -changed
        self.stored = stored

    def release_stored(self) -> None:
        """Keep the stored chunks no longer. If Redis loses them, they are a gap."""
        for position in range(self._released, self.stored):
            if self._chunks[position] != GAP:
                self.kept_bytes -= sys.getsizeof(self._chunks[position])
                self._chunks[position] = GAP
        self._released = max(self._released, self.stored)

    def join(self, stored: Sequence[bytes] = ()) -> bytes | None:
        """Return the JSON of all chunks: texts as one text, others as a list; null if there are none.

        `stored` are the first ones, from Redis. Return None if others are not kept.
        """
        chunks = [*stored, *self._chunks[len(stored) :]]
        if GAP in chunks:
            return None
        if not chunks:
            return b"null"
        if all(chunk.startswith(b'"') for chunk in chunks):
            return b'"%b"' % b"".join(chunk[1:-1] for chunk in chunks)
        return b"[%b]" % b",".join(chunks)
