"""Write and read the heartbeats of workers: asynq's server state and runqy's own record."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from runqy.broker import keys
from runqy.broker.asynq_pb2 import ServerInfo, WorkerInfo
from runqy.broker.broker import Broker
from runqy.broker.constants import HEARTBEAT_TTL_S
from runqy.broker.memory import BY_GO
from runqy.broker.replies import Reply, read_score
from runqy.broker.request import AnyBroker, Request, raise_error
from runqy.broker.scripts import Command, command, script
from runqy.broker.workers.records import (
    DISCONNECTED_TTL_S,
    LOST_AFTER_S,
    LOST_TTL_S,
    RECORD_MAX_BYTES,
    RunningTask,
    WorkerClaim,
    WorkerRecord,
    WorkerState,
    decode_asynq_server,
    decode_go_worker,
    decode_record,
)

MAX_PAYLOAD_BYTES = 1024
"""asynq's tools show 200 characters of a running task's payload, and a heartbeat must stay small."""

GO_WORKER_TTL_S = 3600
"""How long the id of a Go worker that vanished is kept. The search for its lost tasks runs until then (see orphans)."""

SERVED_TTL_S = 10
"""How long the list of served queues counts if maintenance does not repeat it."""

MAX_LISTED = 10_000
"""The number of workers of each kind that are read at most: a worker can write any number of names."""

_ASYNQ_SERVER = re.compile(r"[^{}:]+:[0-9]+:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""host:pid:UUID. Server ids of runqy's workers have a suffix and do not match: they may write anything there."""

_ASYNQ_STATUS = {WorkerState.READY: "active"} | dict.fromkeys(
    (WorkerState.DRAINING, WorkerState.STOPPING, WorkerState.DISCONNECTED), "stopped"
)


def write_heartbeat(record: WorkerRecord, running: Sequence[RunningTask] = (), *, now_ns: int) -> Request[None]:
    """Record that a worker is alive and what it runs. Sent every HEARTBEAT_S."""
    now_s = now_ns // 1_000_000_000
    record = replace(record, last_beat_s=now_s, running=tuple(task.task_id for task in running))
    server, workers = _asynq_keys(record)
    write_server = script("write_server")(
        server=server,
        workers=workers,
        ttl_s=HEARTBEAT_TTL_S,
        server_info=_server_info(record).SerializeToString(),
        running=[part for task in running for part in (task.task_id, _worker_info(record, task).SerializeToString())],
    )
    write_record = script("write_record")(
        record=keys.worker_record(record.worker_id), content=record.encode(), ttl_s=LOST_TTL_S
    )
    return Request(
        (
            _register(keys.SERVERS, server, now_s + HEARTBEAT_TTL_S),
            _register(keys.WORKERS, workers, now_s + HEARTBEAT_TTL_S),
            write_server,
            write_record,
            _register(keys.WORKER_RECORDS, record.worker_id, now_s + LOST_AFTER_S),
        ),
        _ignore,
    )


async def write_refusal(broker: AnyBroker, worker_id: str, *, queue: str, reason: str) -> None:
    """Record why a worker's registration was refused. The record is listed until the worker tries again.

    A record that the worker wrote itself stays, because the worker continues with its last registration.
    """
    now_s = broker.now_ns() // 1_000_000_000
    (known,) = await broker.send(read_records([worker_id], []))
    if known is not None and not known.is_refused:
        return
    record = WorkerRecord(
        worker_id=worker_id,
        host=worker_id,
        pid=0,
        server_id="",
        queue=queue,
        redis_queues={},
        reason=reason,
        started_at_s=known.started_at_s if known else now_s,
        last_beat_s=now_s,
    )
    write_record = script("write_record")(
        record=keys.worker_record(worker_id), content=record.encode(), ttl_s=HEARTBEAT_TTL_S
    )
    index = _register(keys.WORKER_RECORDS, worker_id, now_s + HEARTBEAT_TTL_S)
    await broker.send(Request((write_record, index), _ignore))


def extend_record(worker_id: str, *, now_s: int) -> Request[None]:
    # It is alive, but cannot reach Redis: its next heartbeat replaces both.
    record = keys.worker_record(worker_id)
    return Request(
        (
            command("EXPIRE", record, LOST_TTL_S, key=record),
            command("ZADD", keys.WORKER_RECORDS, now_s + DISCONNECTED_TTL_S, worker_id, key=keys.WORKER_RECORDS),
        ),
        _ignore,
    )


def deregister(record: WorkerRecord, *, now_ns: int) -> Request[None]:
    """Remove a worker that stops regularly. Its record holds the time of its end for a minute, for the server."""
    server, workers = _asynq_keys(record)
    own = keys.worker_record(record.worker_id)
    return Request(
        (
            command("ZREM", keys.SERVERS, server, key=keys.SERVERS),
            command("ZREM", keys.WORKERS, workers, key=keys.WORKERS),
            command("DEL", server, workers, key=server),
            command("ZREM", keys.WORKER_RECORDS, record.worker_id, key=keys.WORKER_RECORDS),
            script("write_record")(record=own, content=_format_end(now_ns), ttl_s=LOST_AFTER_S),
        ),
        _ignore,
    )


def _format_end(now_ns: int) -> str:
    # With a fraction: the worker may register again within the same second.
    seconds, rest_ns = divmod(now_ns, 1_000_000_000)
    return f"{seconds}.{rest_ns // 1000:06}"


def list_worker_records(broker: Broker) -> list[WorkerRecord]:
    """Return the workers seen in the last minute, with Go's and asynq's servers, sorted by id."""
    return broker.run(read_worker_records(broker, now_s=broker.now_s()))


async def read_worker_records(broker: AnyBroker, *, now_s: int) -> list[WorkerRecord]:
    """Return what `list_worker_records` does, for an operation."""
    ids, members = await broker.send(list_worker_ids(now_s))
    found = [record for record in await broker.send(read_records(ids, members)) if record]
    return sorted(found, key=lambda record: record.worker_id)


def list_live_and_lost_records(broker: Broker) -> tuple[list[WorkerRecord], list[WorkerRecord]]:
    """Return what `read_live_and_lost_records` returns."""
    return broker.run(read_live_and_lost_records(broker.run(list_live_and_lost_ids(broker.now_s()))))


class ListedWorkers(NamedTuple):
    """The ids of workers."""

    live: list[str]
    foreign: list[str]
    """Go's workers and asynq's servers."""
    lost: list[str]


def list_live_and_lost_ids(now_s: int) -> Request[ListedWorkers]:
    live, lost = list_worker_ids(now_s), _list_lost_ids(now_s)
    return Request(
        (*live.commands, *lost.commands),
        lambda replies: ListedWorkers(*live.parse(replies[:-1]), lost.parse(replies[-1:])),
    )


def read_live_and_lost_records(listed: ListedWorkers) -> Request[tuple[list[WorkerRecord], list[WorkerRecord]]]:
    """Return the workers seen in the last minute, with Go's and asynq's servers, sorted by id, and the workers that are
    lost, the last one first.

    A worker of runqy is lost that fell silent within LOST_TTL_S without deregistering.
    """
    request = read_records([*listed.live, *listed.lost], listed.foreign)

    def parse(replies: Sequence[Reply]) -> tuple[list[WorkerRecord], list[WorkerRecord]]:
        records = request.parse(replies)
        start, end = len(listed.live), len(listed.live) + len(listed.lost)
        live = [record for record in (*records[:start], *records[end:]) if record]
        # A refusal is no sign of life: the worker has never served.
        lost = [record for record in records[start:end] if record and not record.is_refused]
        return sorted(live, key=lambda record: record.worker_id), lost

    return Request(request.commands, parse, tolerates_wrong_types=True)


def find_worker_record(broker: Broker, worker_id: str) -> tuple[WorkerRecord, bool] | None:
    """Return what a worker reported last, and whether it is lost."""
    requests: list[Request[Any]] = [
        read_records([worker_id], [worker_id]),
        are_workers_listed([worker_id], now_s=broker.now_s()),
    ]
    found, listed = map(raise_error, broker.run_all(requests))
    record = next((record for record in found if record), None)
    return record and (record, not record.is_foreign and listed == [False])


def are_workers_listed(worker_ids: Sequence[str], *, now_s: int) -> Request[list[bool]]:
    """Return which of runqy's workers are neither lost nor deregistered."""
    call = command("ZMSCORE", keys.WORKER_RECORDS, *worker_ids, key=keys.WORKER_RECORDS)
    return Request(
        (call,),
        lambda replies: [(read_score(score) or 0) >= now_s for score in replies[0] or [None] * len(worker_ids)],
    )


def _list_lost_ids(now_s: int) -> Request[list[str]]:
    call = command(
        *("ZRANGE", keys.WORKER_RECORDS, f"({now_s}", "-inf", "BYSCORE", "REV", "LIMIT", 0, MAX_LISTED),
        key=keys.WORKER_RECORDS,
    )
    return Request((call,), lambda replies: _decode_all(replies[0]))


def store_served_queues(workers: Iterable[WorkerRecord]) -> Request[None]:
    """Store for SERVED_TTL_S which Redis queues workers serve, and of these which workers of Go, for the warnings of
    enqueueing.
    """
    served = {(queue, worker.is_foreign) for worker in workers for queue in worker.redis_queues}
    lines = {queue for queue, _ in served} | {f"{BY_GO}{queue}" for queue, is_foreign in served if is_foreign}
    stored = script("write_record")(record=keys.SERVED, content="\n".join(sorted(lines)), ttl_s=SERVED_TTL_S)
    return Request((stored,), _ignore, is_repeatable=True)


async def remove_expired_workers(broker: AnyBroker) -> None:
    """Remove workers from the indexes whose records have expired, or whose score no worker can have written."""
    now_s = broker.now_ns() // 1_000_000_000
    latest_s = now_s + 2 * DISCONNECTED_TTL_S
    go_ids = await broker.send(
        Request(
            (
                command("ZREMRANGEBYSCORE", keys.SERVERS, "-inf", now_s - 1, key=keys.SERVERS),
                command("ZREMRANGEBYSCORE", keys.WORKER_RECORDS, "-inf", now_s - LOST_TTL_S, key=keys.WORKER_RECORDS),
                command("ZREMRANGEBYSCORE", keys.WORKER_RECORDS, latest_s, "+inf", key=keys.WORKER_RECORDS),
                script("remove_expired_workers")(workers=keys.WORKERS, until_s=now_s - 1, prefix=keys.WORKERS + ":{"),
                command(
                    *("ZRANGE", keys.WORKERS, "-inf", now_s - GO_WORKER_TTL_S, "BYSCORE", "LIMIT", 0, MAX_LISTED),
                    key=keys.WORKERS,
                ),
            ),
            lambda replies: [member for member in _decode_all(replies[4]) if is_go_worker(member)],
        )
    )
    records = await broker.send(read_records([], go_ids))
    gone = [worker_id for worker_id, record in zip(go_ids, records, strict=True) if record is None]
    if gone:
        await broker.send(Request((command("ZREM", keys.WORKERS, *gone, key=keys.WORKERS),), _ignore))


def _register(index: str, member: str, expires_at_s: int) -> Command:
    return script("register_worker")(index=index, expires_at_s=expires_at_s, member=member)


def list_worker_ids(now_s: int) -> Request[tuple[list[str], list[str]]]:
    """Return the ids of runqy's workers, and those of Go's workers and asynq's servers."""
    return Request(
        (
            command(
                *("ZRANGE", keys.WORKER_RECORDS, now_s, "+inf", "BYSCORE", "LIMIT", 0, MAX_LISTED),
                key=keys.WORKER_RECORDS,
            ),
            command("ZRANGE", keys.WORKERS, 0, MAX_LISTED - 1, key=keys.WORKERS),
            command("ZRANGE", keys.SERVERS, now_s, "+inf", "BYSCORE", "LIMIT", 0, MAX_LISTED, key=keys.SERVERS),
        ),
        lambda replies: (
            _decode_all(replies[0]),
            [
                *(member for member in _decode_all(replies[1]) if is_go_worker(member)),
                *filter(_ASYNQ_SERVER.fullmatch, map(keys.asynq_server_id, _decode_all(replies[2]))),
            ],
        ),
    )


def is_go_worker(member: str) -> bool:
    """Return whether a member of `asynq:workers` is the bare id of a Go worker, not a key of asynq.

    An id with braces is ignored: it would name the heartbeat of a runqy worker, which can write anything there.
    """
    return not member.startswith(keys.WORKERS + ":") and not {"{", "}"} & {*member}


def read_records(ids: Sequence[str], foreign_ids: Sequence[str]) -> Request[list[WorkerRecord | None]]:
    """Read the records of runqy's workers, and those of Go's and asynq's servers, in order; None for one that has
    expired.

    A worker of runqy counts for the queues that it registered for, whatever its record says.
    """
    claims = [command("HMGET", keys.WORKER_CLAIMS, *ids, key=keys.WORKER_CLAIMS)] if ids else []
    # A record that is too long is cut, and unreadable then.
    own = [command("GETRANGE", key, 0, RECORD_MAX_BYTES, key=key) for key in map(keys.worker_record, ids)]
    foreign = [call for worker_id in foreign_ids for call in _read_foreign(worker_id)]

    def parse(replies: Sequence[Reply]) -> list[WorkerRecord | None]:
        stored = (replies[-1] if ids else None) or [None] * len(ids)
        records = [
            (record := decode_record(reply, name)) and WorkerClaim.decode(claim or b"").limit(record)
            for name, reply, claim in zip(ids, replies[: len(own)], stored, strict=True)
        ]
        rest = iter(replies[len(own) :])
        return records + [_parse_foreign(worker_id, next(rest), next(rest)) for worker_id in foreign_ids]

    return Request((*own, *foreign, *claims), parse, tolerates_wrong_types=True)


def _read_foreign(worker_id: str) -> tuple[Command, Command]:
    """Return the commands that read a worker of the Go system or a server of asynq, and when the latter expires."""
    server = keys.asynq_server(worker_id)
    expiry = command("ZSCORE", keys.SERVERS, server, key=keys.SERVERS)
    if _ASYNQ_SERVER.fullmatch(worker_id):
        return command("GETRANGE", server, 0, RECORD_MAX_BYTES, key=server), expiry
    key = keys.go_worker(worker_id)
    return command("HGETALL", key, key=key), expiry


def _parse_foreign(worker_id: str, stored: Reply, expires_at: Reply) -> WorkerRecord | None:
    if _ASYNQ_SERVER.fullmatch(worker_id):
        last_beat_s = (read_score(expires_at) or 0) - HEARTBEAT_TTL_S
        return decode_asynq_server(stored, worker_id, last_beat_s=last_beat_s)
    return decode_go_worker(_pairs(stored or ()), worker_id)


def _asynq_keys(record: WorkerRecord) -> tuple[str, str]:
    identity = (record.host, record.pid, record.server_id)
    return keys.server_info(*identity), keys.workers(*identity)


def _server_info(record: WorkerRecord) -> ServerInfo:
    """Return the message that asynq's tools list as a server. asynqmon drops one without a Timestamp."""
    return ServerInfo(
        host=record.host,
        pid=record.pid,
        server_id=record.server_id,
        concurrency=record.concurrency,
        queues=record.redis_queues,
        strict_priority=record.is_strict,
        status=_ASYNQ_STATUS.get(record.state, "new"),
        start_time=Timestamp(seconds=record.started_at_s),
        active_worker_count=len(record.running),
    )


def _worker_info(record: WorkerRecord, task: RunningTask) -> WorkerInfo:
    """Return the message that asynq's tools list as a worker: one running task."""
    return WorkerInfo(
        host=record.host,
        pid=record.pid,
        server_id=record.server_id,
        task_id=task.task_id,
        task_type=task.task_type,
        task_payload=_truncate(task.payload),
        queue=task.redis_queue,
        start_time=Timestamp(seconds=task.started_ns // 1_000_000_000, nanos=task.started_ns % 1_000_000_000),
        deadline=Timestamp(seconds=task.deadline_s),
    )


def _truncate(payload: bytes) -> bytes:
    if len(payload) <= MAX_PAYLOAD_BYTES:
        return payload
    # Between two characters: asynqmon cannot print half of one.
    return payload[:MAX_PAYLOAD_BYTES].decode(errors="ignore").encode()


def _decode_all(members: Sequence[bytes]) -> list[str]:
    return [member.decode(errors="replace") for member in members]


def _pairs(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _ignore(_replies: Sequence[Reply]) -> None:
    """Ignore replies that indicate only success."""


def list_running_tasks(records: Sequence[WorkerRecord]) -> Request[list[list[RunningTask]]]:
    """Return the tasks that each worker runs, oldest first. Go's runqy-worker reports none."""
    infos = [keys.workers(record.host, record.pid, record.server_id) for record in records]

    def parse(replies: Sequence[Reply]) -> list[list[RunningTask]]:
        return [_parse_running_tasks((reply or ())[1::2]) for reply in replies]

    return Request(tuple(command("HGETALL", key, key=key) for key in infos), parse, tolerates_wrong_types=True)


def _parse_running_tasks(infos: Sequence[bytes]) -> list[RunningTask]:
    tasks = [task for info in infos if (task := _parse_worker_info(info))]
    return sorted(tasks, key=lambda task: (task.started_ns, task.task_id))


def _parse_worker_info(info: bytes) -> RunningTask | None:
    """Parse one WorkerInfo; None if it is invalid or names no task."""
    try:
        found = WorkerInfo.FromString(info)
    except DecodeError:
        return None
    if not found.task_id:
        return None
    return RunningTask(
        task_id=found.task_id,
        redis_queue=found.queue,
        task_type=found.task_type,
        payload=found.task_payload,
        started_ns=found.start_time.seconds * 1_000_000_000 + found.start_time.nanos,
        deadline_s=found.deadline.seconds,
    )
