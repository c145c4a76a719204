"""Writes and reads the signs of life of workers: asynq's server state, and our record beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from google.protobuf.timestamp_pb2 import Timestamp

from runqy.broker import keys
from runqy.broker.asynq_pb2 import ServerInfo, WorkerInfo
from runqy.broker.broker import Broker
from runqy.broker.links import Reply
from runqy.broker.operation import Request
from runqy.broker.scripts import Command, command, script
from runqy.broker.timing import HEARTBEAT_TTL_S
from runqy.broker.worker_records import (
    RECORD_MAX_BYTES,
    RECORD_TTL_S,
    RunningTask,
    WorkerRecord,
    WorkerState,
    decode_go_worker,
    decode_record,
)

SHOWN_PAYLOAD_BYTES = 1024
"""asynq's tools show 200 characters of a running task's payload; a heartbeat must not carry megabytes."""

GO_MEMORY_S = 3600
"""How long the id of a Go worker that vanished is kept: the tasks it lost are looked for that long (see orphans)."""

MOST_LISTED = 10_000
"""How many workers of each kind are looked at: any worker may list any number of names."""

_ASYNQ_STATUS = {WorkerState.READY: "active", WorkerState.DRAINING: "stopped", WorkerState.DISCONNECTED: "stopped"}


def beat(record: WorkerRecord, running: Sequence[RunningTask] = (), *, now_ns: int) -> Request[None]:
    """Say that a worker is alive, and what it runs (contract 3.22). Sent every HEARTBEAT_S."""
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
        record=keys.worker_record(record.worker_id), content=record.encode(), ttl_s=RECORD_TTL_S
    )
    return Request(
        (
            _register(keys.SERVERS, server, now_s + HEARTBEAT_TTL_S),
            _register(keys.WORKERS, workers, now_s + HEARTBEAT_TTL_S),
            write_server,
            write_record,
            _register(keys.WORKER_RECORDS, record.worker_id, now_s + RECORD_TTL_S),
        ),
        _nothing,
    )


def clear(record: WorkerRecord, *, now_ns: int) -> Request[None]:
    """Forget a worker that ends in order. For a while its record is the time at which it did, for the server to see."""
    server, workers = _asynq_keys(record)
    own = keys.worker_record(record.worker_id)
    return Request(
        (
            command("ZREM", keys.SERVERS, server, key=keys.SERVERS),
            command("ZREM", keys.WORKERS, workers, key=keys.WORKERS),
            command("DEL", server, workers, key=server),
            command("ZREM", keys.WORKER_RECORDS, record.worker_id, key=keys.WORKER_RECORDS),
            script("write_record")(record=own, content=now_ns // 1_000_000_000, ttl_s=RECORD_TTL_S),
        ),
        _nothing,
    )


def find_workers(broker: Broker) -> list[WorkerRecord]:
    """Return the workers that were heard of in the last minute, Go's among them, by id."""
    ids, members = broker.run(_registered(broker.now_s()))
    found = [record for record in broker.run(records_of(ids, members)) if record]
    return sorted(found, key=lambda record: record.worker_id)


def find_worker(broker: Broker, worker_id: str) -> WorkerRecord | None:
    """Return one worker, ours or Go's."""
    return next((record for record in broker.run(records_of([worker_id], [worker_id])) if record), None)


def forget_expired(broker: Broker) -> None:
    """Drop workers from the indexes whose records have expired."""
    now_s = broker.now_s()
    go_ids: list[str] = broker.run(
        Request(
            (
                command("ZREMRANGEBYSCORE", keys.SERVERS, "-inf", now_s - 1, key=keys.SERVERS),
                command("ZREMRANGEBYSCORE", keys.WORKER_RECORDS, "-inf", now_s - 1, key=keys.WORKER_RECORDS),
                script("forget_workers")(workers=keys.WORKERS, until_s=now_s - 1, prefix=keys.WORKERS + ":{"),
                command(
                    *("ZRANGE", keys.WORKERS, "-inf", now_s - GO_MEMORY_S, "BYSCORE", "LIMIT", 0, MOST_LISTED),
                    key=keys.WORKERS,
                ),
            ),
            lambda replies: [member for member in _texts(replies[3]) if is_go_worker(member)],
        )
    )
    records = broker.run(records_of([], go_ids))
    gone = [worker_id for worker_id, record in zip(go_ids, records, strict=True) if record is None]
    if gone:
        broker.run(Request((command("ZREM", keys.WORKERS, *gone, key=keys.WORKERS),), _nothing))


def _register(index: str, member: str, expires_at_s: int) -> Command:
    """Return the script call that lists a worker in an index."""
    return script("register")(index=index, expires_at_s=expires_at_s, member=member)


def _registered(now_s: int) -> Request[tuple[list[str], list[str]]]:
    """Ask for ids of our workers and of Go's."""
    return Request(
        (
            command(
                *("ZRANGE", keys.WORKER_RECORDS, now_s, "+inf", "BYSCORE", "LIMIT", 0, MOST_LISTED),
                key=keys.WORKER_RECORDS,
            ),
            command("ZRANGE", keys.WORKERS, 0, MOST_LISTED - 1, key=keys.WORKERS),
        ),
        lambda replies: (_texts(replies[0]), [m for m in _texts(replies[1]) if is_go_worker(m)]),
    )


def is_go_worker(member: str) -> bool:
    """Tell a bare worker id in `asynq:workers` from the keys that asynq puts there.

    One with braces would name the heartbeat of a worker with a Redis user of its own, which may write anything into it.
    """
    return not member.startswith(keys.WORKERS + ":") and not {"{", "}"} & {*member}


def records_of(ids: Sequence[str], go_ids: Sequence[str]) -> Request[list[WorkerRecord | None]]:
    """Ask for the records of our workers and of Go's, in order; None for one that has expired."""
    own = [command("GETRANGE", key, 0, RECORD_MAX_BYTES, key=key) for key in map(keys.worker_record, ids)]
    foreign = [command("HGETALL", key, key=key) for key in map(keys.go_worker, go_ids)]

    def parse(replies: Sequence[Reply]) -> list[WorkerRecord | None]:
        records = [decode_record(reply, name) for name, reply in zip(ids, replies[: len(own)], strict=True)]
        go_replies = zip(go_ids, replies[len(own) :], strict=True)
        return records + [decode_go_worker(_pairs(reply or ()), name) for name, reply in go_replies]

    return Request((*own, *foreign), parse, tolerates_wrong_types=True)


def _asynq_keys(record: WorkerRecord) -> tuple[str, str]:
    """Return the keys by which asynq knows this process."""
    identity = (record.host, record.pid, record.server_id)
    return keys.server_info(*identity), keys.workers(*identity)


def _server_info(record: WorkerRecord) -> ServerInfo:
    """Return what asynq's tools list as a server. Every Timestamp must be present, or asynqmon drops the entry."""
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
    """Return what asynq's tools list as a worker: one running task."""
    return WorkerInfo(
        host=record.host,
        pid=record.pid,
        server_id=record.server_id,
        task_id=task.task_id,
        task_type=task.task_type,
        task_payload=_shown(task.payload),
        queue=task.redis_queue,
        start_time=Timestamp(seconds=task.started_ns // 1_000_000_000, nanos=task.started_ns % 1_000_000_000),
        deadline=Timestamp(seconds=task.deadline_s),
    )


def _shown(payload: bytes) -> bytes:
    """Cut a payload between two characters: half a character is unprintable to asynqmon."""
    if len(payload) <= SHOWN_PAYLOAD_BYTES:
        return payload
    return payload[:SHOWN_PAYLOAD_BYTES].decode(errors="ignore").encode()


def _texts(members: Sequence[bytes]) -> list[str]:
    """Read names from a reply; what is no text was written by nobody we know."""
    return [member.decode(errors="replace") for member in members]


def _pairs(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    """Read a hash from its flat reply."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _nothing(_replies: Sequence[Reply]) -> None:
    """Read replies that say nothing beyond success."""
