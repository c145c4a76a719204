"""Write and read what tasks print while they run, by attempt."""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from runqy.broker.constants import ARCHIVE_MAX_AGE_S
from runqy.broker.keys import QueueKeys
from runqy.broker.replies import Reply, read_number
from runqy.broker.request import Request
from runqy.broker.scripts import Command, Value, command, script
from runqy.broker.tasks.lease import Lease

MAX_BYTES = 64 << 10
"""Of each attempt the last bytes are kept, up to this number."""
MAX_ATTEMPTS = 5
"""The output of the last attempts of a task is kept, up to this number."""
KEPT_S = 7 * 24 * 3600
"""How long output outlives the time to live of its task, and the last time that maintenance saw the task: other
programs delete tasks without their output."""


class OutputChunk(msgspec.Struct, frozen=True, kw_only=True):
    """What a run printed since the previous chunk, and its progress."""

    lease: Lease
    offset: int = 0
    """The number of bytes that the run printed before. The stored text marks a gap."""
    text: bytes = b""
    is_shared: bool = False
    """Other tasks ran in the same child at the time, so some of the text may be theirs."""
    progress: bytes = b""
    """JSON of a TaskProgress; empty if it has not changed."""
    retention_s: int = 0
    """How long the task is kept after its success."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOutput:
    """The kept output of an attempt, from an offset on."""

    attempts: tuple[int, ...] = ()
    """The attempts whose output is kept."""
    attempt: int = 0
    """0 if the task printed nothing."""
    offset: int = 0
    """The number of bytes of the attempt before the text."""
    text: bytes = b""
    is_shared: bool = False
    """Other tasks ran in the same child at the time: some of the text may be theirs."""

    @property
    def end(self) -> int:
        return self.offset + len(self.text)


def write_output(chunks: Sequence[OutputChunk]) -> Request[list[bool]]:
    """Write chunks of tasks of one Redis queue; return for each whether its lease is held. May be repeated.

    Raise BrokerFull if Redis has no free memory: what is left is for results.
    """
    return Request((_write(chunks),), lambda replies: [bool(code) for code in replies[0]], is_repeatable=True)


def read_output(queue: str, task_id: str, *, attempt: int | None = None, offset: int = 0) -> Request[TaskOutput]:
    """Return what an attempt printed, from an offset on; by default the last attempt that printed anything."""
    keys = QueueKeys.of(queue)
    call = script("read_output")(
        task=keys.task(task_id),
        output=keys.output(task_id),
        attempt="" if attempt is None else attempt,
        offset=offset,
    )
    return Request((call,), _parse, is_bulky=True, tolerates_wrong_types=True)


def keep_outputs(tasks: Sequence[tuple[str, str]]) -> Request[None]:
    """Make output and chunks of existing tasks, given by queue and id, live for at least KEPT_S more."""
    kept = [
        key
        for queue, task_id in tasks
        for key in (QueueKeys.of(queue).output(task_id), QueueKeys.of(queue).chunks(task_id))
    ]
    return Request(tuple(command("EXPIRE", key, KEPT_S, "GT", key=key) for key in kept), lambda _: None)


def delete_stray_output(queue: str, task_id: str) -> Request[bool]:
    """Delete output and chunks of a task that does not exist; return whether there were any."""
    keys = QueueKeys.of(queue)
    call = script("delete_stray_output")(
        task=keys.task(task_id), output=keys.output(task_id), chunks=keys.chunks(task_id)
    )
    return Request((call,), lambda replies: replies[0] > 0, is_repeatable=True)


def _write(chunks: Sequence[OutputChunk]) -> Command:
    queue = QueueKeys.of(chunks[0].lease.queue)
    keys: list[str] = []
    runs: list[Value] = []
    for chunk in chunks:
        lease = chunk.lease
        keys += (queue.task(lease.task_id), queue.output(lease.task_id))
        runs += (lease.token, chunk.offset, chunk.text)
        runs += (int(chunk.is_shared), chunk.progress, chunk.retention_s)
    # A hash beside the task, not fields of it: reading a task reads all its fields (ADR 0012).
    return script("write_output")(
        task_and_output=keys,
        max_bytes=MAX_BYTES,
        max_attempts=MAX_ATTEMPTS,
        kept_s=KEPT_S,
        ttl_archived=ARCHIVE_MAX_AGE_S,
        runs=runs,
    )


def _parse(replies: Sequence[Reply]) -> TaskOutput:
    if replies[0] is None:
        return TaskOutput()
    # Workers can write what the script reads: numbers may be invalid.
    attempts, attempt, offset, text, is_shared = replies[0]
    return TaskOutput(
        attempts=tuple(number for part in attempts.split(b",") if (number := read_number(part)) is not None),
        attempt=read_number(attempt) or 0,
        offset=read_number(offset) or 0,
        text=text,
        is_shared=bool(is_shared),
    )
