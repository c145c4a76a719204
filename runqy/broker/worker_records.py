"""Owns what a worker says about itself: the record behind the workers API, and its spelling in Redis."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import msgspec

from runqy.broker.numbers import read_score
from runqy.broker.timing import HEARTBEAT_TTL_S

RECORD_MAX_BYTES = 1 << 18
"""What is read of a record; a longer one counts as none, or a worker could fill the memory of each that lists it."""
RECORD_TTL_S = 60
"""How long a record outlives its worker's last beat: a worker that vanished is shown as stale before it is gone."""

_GO_QUEUE = re.compile(r"([^\s\[\]:,]+):(-?\d{1,9})(?!\d)")


class WorkerState(StrEnum):
    """What a worker is doing; only a ready one takes tasks."""

    STARTING = "starting"
    DEPLOYING = "deploying"
    READY = "ready"
    START_FAILED = "start_failed"
    DRAINING = "draining"
    DISCONNECTED = "disconnected"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningTask:
    """A task that a worker runs, as asynq's tools list it."""

    task_id: str
    redis_queue: str
    task_type: str
    payload: bytes
    started_ns: int
    deadline_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRecord:
    """One registration of a worker process, for one queue."""

    worker_id: str
    host: str
    pid: int
    server_id: str
    """UUID of this registration; names the worker to asynq's tools together with host and pid."""
    queue: str
    redis_queues: dict[str, int]
    """Redis queue -> priority."""
    is_strict: bool = False
    concurrency: int = 1
    processes: int = 1
    state: WorkerState = WorkerState.STARTING
    reason: str = ""
    """Why the state is what it is, when it is not `ready`."""
    commit: str = ""
    started_at_s: int
    last_beat_s: int = 0
    """Set by the heartbeat."""
    last_take_s: int | None = None
    running: tuple[str, ...] = ()
    """Ids of running tasks; set by the heartbeat."""
    version: str = ""
    is_foreign: bool = False
    """True of Go's runqy-worker, which reports less."""
    foreign_status: str = ""
    extra: dict[str, str] = field(default_factory=dict)
    """What else a foreign worker reports, as it spells it."""

    def is_stale(self, now_s: int) -> bool:
        """Tell whether beats are overdue."""
        return self.last_beat_s < now_s - HEARTBEAT_TTL_S

    def encode(self) -> bytes:
        """Return the JSON that stands in Redis."""
        return msgspec.json.encode(self)


_decoder = msgspec.json.Decoder(WorkerRecord)


def decode_record(stored: bytes | None, worker_id: str) -> WorkerRecord | None:
    """Read a worker's record; None if it has expired, is another's, or is none that this version understands."""
    if not stored:
        return None
    try:
        record = _decoder.decode(stored)
    except (msgspec.DecodeError, RecursionError):
        return None
    return record if record.worker_id == worker_id and not record.is_foreign else None


def decode_go_worker(fields: Mapping[bytes, bytes], worker_id: str) -> WorkerRecord | None:
    """Read the hash that Go's runqy-worker keeps about itself; None if it has expired, or is another's."""
    texts = {name.decode(errors="replace"): value.decode(errors="replace") for name, value in fields.items()}
    if not worker_id or texts.pop("worker_id", "") != worker_id:
        return None
    host, _, pid = worker_id.rpartition(":")
    queues = {name: int(priority) for name, priority in _GO_QUEUE.findall(texts.pop("queues", "").removeprefix("map"))}
    return WorkerRecord(
        worker_id=worker_id,
        host=host or worker_id,
        pid=_whole(pid),
        server_id="",
        queue=",".join(queues),
        redis_queues=queues,
        concurrency=_whole(texts.pop("concurrency", "")),
        state=WorkerState.READY if texts.get("healthy", "true") == "true" else WorkerState.START_FAILED,
        started_at_s=_whole(texts.pop("started_at", "")),
        last_beat_s=_whole(texts.pop("last_beat", "")),
        is_foreign=True,
        foreign_status=texts.pop("status", ""),
        extra=texts,
    )


def _whole(text: str) -> int:
    """Read a whole number that may not be one."""
    try:
        return read_score(text) or 0
    except ValueError:
        return 0
