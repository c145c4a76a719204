"""The record that a worker writes about itself, which the workers API shows, and its encoding in Redis.

With their heartbeats workers read what they are asked to do: drain, restart or replace their children, or stop.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Annotated

import msgspec
from google.protobuf.message import DecodeError

from runqy.broker import keys
from runqy.broker.asynq_pb2 import ServerInfo
from runqy.broker.constants import HEARTBEAT_TTL_S
from runqy.broker.replies import Reply, read_score
from runqy.broker.request import Request
from runqy.broker.scripts import command, script
from runqy.core.formats.json_decoding import read_json

RECORD_MAX_BYTES = 1 << 18
"""Longer records are ignored: a worker could fill the memory of the processes that list it."""
LOST_AFTER_S = 60
"""How long after its last heartbeat a worker counts as disconnected. Then it is lost."""
DISCONNECTED_TTL_S = 900
"""How long after a registration a worker that cannot reach Redis counts as disconnected. It registers again after at
most 10 minutes."""
LOST_TTL_S = 86_400
"""How long Redis keeps the record of a worker after its last heartbeat. Nobody else needs to notice that it is lost."""

SHARED_DEATHS_WINDOW_S = 600
"""How long a worker reports the death of a child that ran several tasks."""

LATEST_S = 253_402_300_799
"""The end of the year 9999, the last that Python's dates have. Workers can write any number into their records."""
UnixSeconds = Annotated[int, msgspec.Meta(ge=0, le=LATEST_S)]
Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]
Mean = Annotated[float, msgspec.Meta(ge=0, le=1 << 40)]
"""The sum of those of all workers fits a column of the database."""

_GO_TRUE = {"1", "true"}
"""Booleans as go-redis writes them, and as fmt prints them."""
# Go prints a map as `map[mail:6 default:1]`.
_GO_QUEUE = re.compile(r"([^\s\[\]:,]+):(-?\d{1,9})(?!\d)")
REQUEST_TTL_S = 86_400
"""How long a request waits for a worker that cannot reach Redis."""


class WorkerState(StrEnum):
    """The state of a worker. Only a ready one dequeues tasks."""

    STARTING = "starting"
    DEPLOYING = "deploying"
    READY = "ready"
    START_FAILED = "start_failed"
    RESTARTING = "restarting"
    DRAINING = "draining"
    STOPPING = "stopping"
    DISCONNECTED = "disconnected"
    LOST = "lost"


class Replacement(StrEnum):
    """Whether a worker replaces its children by others with the same code and a changed environment."""

    NONE = ""
    WAITING = "waiting"
    """It waits for its turn."""
    RUNNING = "running"


class DeploymentStep(StrEnum):
    """What a worker does to run a release."""

    FETCH = "fetch"
    INSTALL = "install"
    START = "start"


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
    pid: Count
    server_id: str
    """UUID of this registration. With host and pid it identifies the worker to asynq's tools. Empty if the registration
    was refused."""
    queue: str
    redis_queues: dict[str, Count]
    """Redis queue -> priority."""
    is_strict: bool = False
    concurrency: Count = 1
    processes: Count = 1
    state: WorkerState = WorkerState.STARTING
    reason: str = ""
    """The reason for the state, or a problem of a `ready` worker."""
    commit: str = ""
    commit_subject: str = ""
    commit_author: str = ""
    committed_at_s: UnixSeconds = 0
    """0 if the worker does not know it."""
    revision: str = ""
    """The revision of the configuration that it registered with."""
    release: Count | None = None
    """The number of the release that its children run. 0: none, it follows the branch; None: it knows no releases."""
    failed_release: Count = 0
    """The number of the release that it could not deploy or start, with the reason in `reason`; 0: none."""
    failed_commit: str = ""
    """Its commit and what git says about that, if it was fetched."""
    failed_subject: str = ""
    failed_author: str = ""
    failed_committed_at_s: UnixSeconds = 0
    failed_step: DeploymentStep = DeploymentStep.START
    """The step that failed."""
    release_runs: Count = 0
    """What became of the runs of its release since it began to run it: all, those that failed, and of these those
    whose child died."""
    release_failures: Count = 0
    release_deaths: Count = 0
    replacement: Replacement = Replacement.NONE
    replacement_s: Mean = 0.0
    """For how long it has waited for its turn, or has had it."""
    startup_s: Mean = 0.0
    """How long the last start of a child took, until it was ready; 0 if none was."""
    child_memory_bytes: Count = 0
    """The most memory that one of its children uses, with its descendants; 0 if that is not known."""
    started_at_s: UnixSeconds
    last_beat_s: UnixSeconds = 0
    """Set by the heartbeat."""
    last_take_s: UnixSeconds | None = None
    free_slots: Count = 0
    """How many more tasks it could run."""
    running: tuple[str, ...] = ()
    """Ids of running tasks; set by the heartbeat."""
    mean_running: Mean = 0.0
    """How many tasks it ran at a time, as the mean over the last minute or two."""
    mean_batch: Mean = 0.0
    """The mean size of the batches of that time; 0 if there were none."""
    shared_deaths: Count = 0
    """How many children died in the last SHARED_DEATHS_WINDOW_S while they ran several tasks."""
    shared_death_tasks: Count = 0
    """The smallest number of tasks that one of them ran."""
    version: str = ""
    is_foreign: bool = False
    """Go's runqy-worker or a server of asynq, which report less."""
    foreign_status: str = ""
    extra: dict[str, str] = field(default_factory=dict)
    """The other values that a foreign worker reports."""

    def is_stale(self, now_s: int) -> bool:
        """Return whether heartbeats are overdue.

        A heartbeat from the future counts as overdue, because it would never become so. Not that of a Go worker, which
        uses its own clock: its hash expires.
        """
        is_future = self.last_beat_s > now_s + HEARTBEAT_TTL_S and not self.is_foreign
        return is_future or self.last_beat_s < now_s - HEARTBEAT_TTL_S

    def is_ready(self, now_s: int) -> bool:
        return self.state is WorkerState.READY and not self.is_stale(now_s)

    @property
    def is_refused(self) -> bool:
        """Whether the server refused the registration and wrote this record itself: the worker has no Redis
        credentials.
        """
        return not self.is_foreign and not self.server_id

    @property
    def program(self) -> str:
        return ("A server of asynq" if self.server_id else "Go's runqy-worker") if self.is_foreign else "runqy-worker"

    @property
    def process(self) -> tuple[str, int]:
        """The host and pid of its process, which has a record for each queue that it registered for."""
        return (self.worker_id, 0) if self.is_foreign else (self.host, self.pid)

    def encode(self) -> bytes:
        return msgspec.json.encode(self)


@dataclass(frozen=True, slots=True)
class WorkerClaim:
    """Which owner's key last registered a worker id, when, and for which queues."""

    owner: str
    at_s: int
    queue: str = ""
    """Empty if the claim is missing or invalid."""
    redis_queues: tuple[str, ...] = ()

    def encode(self) -> bytes:
        return " ".join((str(self.at_s), self.owner, self.queue, *self.redis_queues)).encode()

    @classmethod
    def decode(cls, content: bytes) -> WorkerClaim:
        """Return the claim in a field of the hash; one without an owner if the content is invalid."""
        at_s, owner, queue, *redis_queues = [*content.decode(errors="replace").split(" "), "", ""]
        if not at_s.isdigit() or len(at_s) > 11:
            return cls("", 0)
        return cls(owner, int(at_s), queue, tuple(filter(None, redis_queues)))

    def is_fresh(self, now_s: int) -> bool:
        return abs(now_s - self.at_s) < LOST_AFTER_S

    def limit(self, record: WorkerRecord) -> WorkerRecord:
        """Return a record with only the queues that its worker registered for: it could write any others."""
        if not self.queue:
            return record
        allowed = {name: priority for name, priority in record.redis_queues.items() if name in self.redis_queues}
        return replace(record, queue=self.queue, redis_queues=allowed)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerCounts:
    """The number of worker processes."""

    ready: int = 0
    """Ready for at least one of the counted queues."""
    not_ready: int = 0
    """Starting, deploying, failed to start or draining."""
    disconnected: int = 0
    """Without a recent heartbeat; not part of `total`."""

    @property
    def total(self) -> int:
        return self.ready + self.not_ready


NO_WORKERS = WorkerCounts()


def count_workers(records: Iterable[WorkerRecord], *, now_s: int) -> WorkerCounts:
    """Count the processes that these records belong to. One process may have a record for each of its queues."""
    readiness: dict[tuple[str, int], list[tuple[bool, bool]]] = {}
    for record in records:
        readiness.setdefault(record.process, []).append((record.is_ready(now_s), record.is_stale(now_s)))
    ready = sum(any(is_ready for is_ready, _ in found) for found in readiness.values())
    disconnected = sum(all(is_stale for _, is_stale in found) for found in readiness.values())
    return WorkerCounts(ready=ready, not_ready=len(readiness) - ready - disconnected, disconnected=disconnected)


def decode_record(stored: bytes | None, worker_id: str) -> WorkerRecord | None:
    """Decode a worker's record; None if it is missing, unreadable, or of another worker."""
    if not stored:
        return None
    try:
        record = read_json(stored, WorkerRecord)
    except (msgspec.DecodeError, RecursionError):
        return None
    return record if record.worker_id == worker_id and not record.is_foreign else None


def decode_go_worker(fields: Mapping[bytes, bytes], worker_id: str) -> WorkerRecord | None:
    """Decode the hash of Go's runqy-worker; None if it is missing or of another worker."""
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
        state=WorkerState.READY if texts.get("healthy", "1") in _GO_TRUE else WorkerState.START_FAILED,
        started_at_s=min(max(_whole(texts.pop("started_at", "")), 0), LATEST_S),
        last_beat_s=min(max(_whole(texts.pop("last_beat", "")), 0), LATEST_S),
        is_foreign=True,
        foreign_status=texts.pop("status", ""),
        extra=texts,
    )


_ASYNQ_STATES = {"new": WorkerState.STARTING, "active": WorkerState.READY}


def decode_asynq_server(stored: bytes | None, worker_id: str, *, last_beat_s: int) -> WorkerRecord | None:
    """Decode the ServerInfo of a server of asynq; None if it is missing, unreadable, or of another server."""
    try:
        info = ServerInfo.FromString(stored or b"")
    except DecodeError:
        return None
    if worker_id != f"{info.host}:{info.pid}:{info.server_id}":
        return None
    return WorkerRecord(
        worker_id=worker_id,
        host=info.host,
        pid=info.pid,
        server_id=info.server_id,
        queue=",".join(info.queues),
        redis_queues=dict(info.queues),
        is_strict=info.strict_priority,
        concurrency=info.concurrency,
        state=_ASYNQ_STATES.get(info.status, WorkerState.DRAINING),
        started_at_s=min(max(info.start_time.seconds, 0), LATEST_S),
        last_beat_s=min(max(last_beat_s, 0), LATEST_S),
        is_foreign=True,
        foreign_status=info.status,
    )


def _whole(text: str) -> int:
    """Parse a whole number; 0 if it is invalid."""
    try:
        return read_score(text) or 0
    except ValueError:
        return 0


class WorkerAction(StrEnum):
    """What a worker can be asked to do."""

    DRAIN = "drain"
    """Dequeue no more tasks, and exit once those that run have ended."""
    RESTART = "restart"
    """Replace the children, each between two tasks."""
    STOP = "stop"
    """Stop as on SIGTERM."""
    TAKE_TURN = "take_turn"
    """Replace the children by others with the changed environment: it is the worker's turn. Of maintenance only."""


def request_action(worker_id: str, action: WorkerAction, *, request_id: str) -> Request[None]:
    """Ask a worker for an action. A worker carries out a request id once."""
    call = script("request_worker")(
        requests=keys.worker_requests(worker_id),
        action=action.value,
        request_id=request_id,
        ttl_s=REQUEST_TTL_S,
        channel=keys.CHANGED_CHANNEL,
        worker_id=worker_id,
    )
    return Request((call,), lambda _: None, is_repeatable=True)


def read_requests(worker_id: str) -> Request[Mapping[WorkerAction, str]]:
    """Return the ids of the newest requests to a worker."""
    key = keys.worker_requests(worker_id)

    def parse(replies: Sequence[Reply]) -> Mapping[WorkerAction, str]:
        pairs = zip(WorkerAction, replies[0], strict=True)
        return {action: found.decode("utf-8", "replace") for action, found in pairs if found}

    return Request((command("HMGET", key, *WorkerAction, key=key),), parse)
