"""The data that a heartbeat writes for asynq's tools and for the workers API."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from runqy.broker import keys
from runqy.broker.asynq_pb2 import ServerInfo, WorkerInfo
from runqy.broker.broker import Broker
from runqy.broker.workers import heartbeats
from runqy.broker.workers.heartbeats import list_running_tasks
from runqy.broker.workers.records import (
    LOST_TTL_S,
    RECORD_MAX_BYTES,
    RunningTask,
    WorkerRecord,
    WorkerState,
    decode_go_worker,
    decode_record,
)
from tests.support.redis_client import redis_of
from tests.support.waiting import wait_until

RECORD = WorkerRecord(
    worker_id="w-1",
    host="h",
    pid=7,
    server_id="s",
    queue="mail",
    redis_queues={"mail_high": 10, "mail_low": 3},
    concurrency=4,
    state=WorkerState.READY,
    commit="abc123",
    started_at_s=1_700_000_000,
)
SERVER, RUNNING = "asynq:servers:{h:7:s}", "asynq:workers:{h:7:s}"


def running_task(task_id: str, payload: bytes = b"{}") -> RunningTask:
    return RunningTask(
        task_id=task_id,
        redis_queue="mail_high",
        task_type="mail_high",
        payload=payload,
        started_ns=1_700_000_000_000_000_500,
        deadline_s=1_700_000_060,
    )


def beat(broker: Broker, *running: RunningTask, **changes: Any) -> int:
    now_ns = broker.now_ns()
    broker.run(heartbeats.write_heartbeat(dataclasses.replace(RECORD, **changes), running, now_ns=now_ns))
    return now_ns // 1_000_000_000


@pytest.fixture
def long_lived(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing that a heartbeat writes expire before it is looked at."""
    monkeypatch.setattr(heartbeats, "HEARTBEAT_TTL_S", 3600)


def lives_for(broker: Broker, ttl_s: int, write: Callable[[], object], *keys: str) -> bool:
    """Write keys, and return whether they expire in due time; not if Redis is asked much later."""
    write()
    return all(ttl_s - 2 < redis_of(broker).ttl(key) <= ttl_s for key in keys)


def test_a_heartbeat_counts_for_ten_seconds(broker: Broker) -> None:
    now_s = beat(broker, running_task("t1"))

    assert redis_of(broker).zscore(keys.SERVERS, SERVER) == now_s + 10
    assert redis_of(broker).zscore(keys.WORKERS, RUNNING) == now_s + 10
    wait_until(lambda: lives_for(broker, 10, lambda: beat(broker, running_task("t1")), SERVER, RUNNING))


@pytest.mark.usefixtures("long_lived")
def test_asynqs_tools_can_read_a_heartbeat(broker: Broker) -> None:
    beat(broker, running_task("t1"))

    info = ServerInfo.FromString(redis_of(broker).get(SERVER))
    assert (info.host, info.pid, info.server_id, info.concurrency, info.status) == ("h", 7, "s", 4, "active")
    assert dict(info.queues) == {"mail_high": 10, "mail_low": 3}
    assert (info.start_time.seconds, info.active_worker_count) == (1_700_000_000, 1)


@pytest.mark.usefixtures("long_lived")
def test_a_running_task_is_listed_with_every_timestamp(broker: Broker) -> None:
    beat(broker, running_task("t1"))

    info = WorkerInfo.FromString(redis_of(broker).hget(RUNNING, "t1"))
    assert info.HasField("start_time")
    assert info.HasField("deadline")
    assert (info.start_time.seconds, info.start_time.nanos) == (1_700_000_000, 500)
    assert (info.deadline.seconds, info.queue, info.task_payload) == (1_700_000_060, "mail_high", b"{}")


@pytest.mark.usefixtures("long_lived")
def test_timestamps_are_present_even_at_zero(broker: Broker) -> None:
    task = dataclasses.replace(running_task("t1"), started_ns=0, deadline_s=0)

    beat(broker, task, started_at_s=0)

    info = WorkerInfo.FromString(redis_of(broker).hget(RUNNING, "t1"))
    assert info.HasField("start_time")
    assert info.HasField("deadline")
    assert ServerInfo.FromString(redis_of(broker).get(SERVER)).HasField("start_time")


@pytest.mark.usefixtures("long_lived")
def test_a_task_that_ended_is_gone_with_the_next_beat(broker: Broker) -> None:
    beat(broker, running_task("t1"), running_task("t2"))
    beat(broker, running_task("t2"))
    listed = redis_of(broker).hkeys(RUNNING)

    beat(broker)

    assert listed == [b"t2"]
    assert not redis_of(broker).exists(RUNNING)


@pytest.mark.usefixtures("long_lived")
def test_a_large_payload_is_cut_between_two_characters(broker: Broker) -> None:
    beat(broker, running_task("t1", b"x" + "é".encode() * 1_000_000))

    payload = WorkerInfo.FromString(redis_of(broker).hget(RUNNING, "t1")).task_payload
    assert payload == b"x" + "é".encode() * 511


def test_the_record_reads_back_as_it_was_written(broker: Broker) -> None:
    now_s = beat(broker, running_task("t1"))

    assert heartbeats.list_worker_records(broker) == [dataclasses.replace(RECORD, last_beat_s=now_s, running=("t1",))]
    assert heartbeats.find_worker_record(broker, "w-1") == (heartbeats.list_worker_records(broker)[0], False)
    wait_until(lambda: lives_for(broker, 86_400, lambda: beat(broker), "runqy:worker:w-1"))


def test_a_worker_that_ended_in_order_leaves_for_a_minute_when_it_did(broker: Broker) -> None:
    beat(broker, running_task("t1"))

    def deregister() -> None:
        broker.run(heartbeats.deregister(RECORD, now_ns=1_700_000_000_000_000_000))

    deregister()

    assert list(redis_of(broker).scan_iter("*")) == [b"runqy:worker:w-1"]
    assert redis_of(broker).get("runqy:worker:w-1") == b"1700000000.000000"
    assert heartbeats.list_worker_records(broker) == []
    assert heartbeats.find_worker_record(broker, "w-1") is None
    wait_until(lambda: lives_for(broker, 60, deregister, "runqy:worker:w-1"))


@pytest.mark.parametrize("last_beat_s", [-62_135_596_801, -1, 253_402_300_800, 10**18])
def test_a_record_with_an_impossible_time_is_ignored(last_beat_s: int) -> None:
    assert decode_record(dataclasses.replace(RECORD, last_beat_s=last_beat_s).encode(), "w-1") is None


def test_a_heartbeat_from_the_future_is_ignored() -> None:
    assert dataclasses.replace(RECORD, last_beat_s=2000).is_stale(1000)


def test_a_worker_without_beats_is_stale() -> None:
    record = dataclasses.replace(RECORD, last_beat_s=1000)

    assert not record.is_stale(1010)
    assert record.is_stale(1011)


@pytest.mark.usefixtures("long_lived")
def test_a_draining_worker_shows_as_stopped_to_asynqs_tools(broker: Broker) -> None:
    beat(broker, state=WorkerState.DRAINING)

    assert ServerInfo.FromString(redis_of(broker).get(SERVER)).status == "stopped"


GO_WORKER = {
    "worker_id": "vm:17767",
    "started_at": "1795564380",
    "last_beat": "1795564381",
    "concurrency": "2",
    "queues": "map[live.default:5 live.low:1]",
    "status": "running",
    "healthy": "1",
    "metrics": "{}",
    "recovery": "{}",
}
"""The hash of Go's runqy-worker; go-redis writes booleans as 1 and 0."""


def test_a_go_worker_is_listed_beside_ours(broker: Broker) -> None:
    beat(broker)
    redis_of(broker).zadd(keys.WORKERS, {"vm:17767": broker.now_s() + 30})
    redis_of(broker).hset("asynq:workers:vm:17767", mapping=GO_WORKER)

    go, ours = heartbeats.list_worker_records(broker)

    assert (go.worker_id, go.host, go.pid, go.is_foreign) == ("vm:17767", "vm", 17767, True)
    assert (go.redis_queues, go.concurrency, go.foreign_status) == ({"live.default": 5, "live.low": 1}, 2, "running")
    assert (go.started_at_s, go.last_beat_s) == (1795564380, 1795564381)
    assert ours.worker_id == "w-1"
    assert heartbeats.find_worker_record(broker, "vm:17767") == (go, False)


ASYNQ_SERVER = "vm:9:0b6e5a8e-4f5c-4f7e-9d39-5d1f2b6f0c11"


@pytest.mark.usefixtures("long_lived")
def test_a_server_of_asynq_is_listed_beside_ours_while_it_lives(broker: Broker) -> None:
    ours = f"h:7:{ASYNQ_SERVER[5:]}-0123456789ab"
    beat(broker, running_task("t1"), server_id=ours[4:])
    client, key, now_s = redis_of(broker), keys.asynq_server(ASYNQ_SERVER), broker.now_s()
    info = ServerInfo(host="vm", pid=9, server_id=ASYNQ_SERVER[5:], concurrency=3, queues={"low": 1}, status="active")
    info.start_time.seconds = 1_700_000_000
    client.set(key, info.SerializeToString())
    client.zadd(keys.SERVERS, {key: now_s + 3600, keys.asynq_server("gone:1:x"): now_s + 60, "junk": now_s + 60})
    task = WorkerInfo(server_id=info.server_id, task_id="t2", queue="low")
    client.hset(keys.workers("vm", 9, info.server_id), "t2", task.SerializeToString())

    server, own = heartbeats.list_worker_records(broker)

    assert (server.worker_id, server.redis_queues, server.concurrency) == (ASYNQ_SERVER, {"low": 1}, 3)
    assert (server.is_foreign, server.is_ready(now_s), server.last_beat_s) == (True, True, now_s)
    assert own.worker_id == "w-1"
    assert [[task.task_id for task in found] for found in broker.run(list_running_tasks([server]))] == [["t2"]]
    assert heartbeats.find_worker_record(broker, ASYNQ_SERVER) == (server, False)
    client.zadd(keys.SERVERS, {key: now_s - 1})
    assert heartbeats.list_worker_records(broker) == [own]


@pytest.mark.parametrize(
    ("healthy", "state"),
    [
        ("1", WorkerState.READY),
        ("true", WorkerState.READY),
        ("0", WorkerState.START_FAILED),
        ("false", WorkerState.START_FAILED),
    ],
)
def test_a_go_worker_is_ready_while_it_is_healthy(broker: Broker, healthy: str, state: WorkerState) -> None:
    redis_of(broker).zadd(keys.WORKERS, {"vm:17767": broker.now_s() + 30})
    redis_of(broker).hset("asynq:workers:vm:17767", mapping=GO_WORKER | {"healthy": healthy})

    (go,) = heartbeats.list_worker_records(broker)

    assert go.state is state


def test_unreadable_records_are_skipped(broker: Broker) -> None:
    redis_of(broker).zadd(keys.WORKER_RECORDS, {"bad": broker.now_s() + 60, "gone": broker.now_s() + 60})
    redis_of(broker).set("runqy:worker:bad", b'{"worker_id": 5}')
    redis_of(broker).zadd(keys.WORKERS, {"vm:1": broker.now_s() + 30})

    assert heartbeats.list_worker_records(broker) == []
    assert heartbeats.find_worker_record(broker, "nobody") is None


OWN_WORKERS = "asynq:workers:{h:1:0-a}"
"""A key that a worker with a Redis user of its own may write anything into."""


@pytest.mark.parametrize(
    "words",
    [
        ("RPUSH", "runqy:worker:bad", "x"),
        ("SET", "runqy:worker:bad", "[" * 200_000),
        ("SET", "runqy:worker:bad", '{"worker_id":"w-1","host":"' + "x" * RECORD_MAX_BYTES),
        ("HSET", OWN_WORKERS, "worker_id", "{h:1:0-a}", "queues", "map[mail:" + "9" * 5000 + "]"),
        ("SET", OWN_WORKERS, "x"),
    ],
    ids=["list", "nested", "long", "digits", "string"],
)
def test_a_worker_cannot_hide_other_workers(broker: Broker, words: tuple[str, ...]) -> None:
    beat(broker)
    redis_of(broker).zadd(keys.WORKER_RECORDS, {"bad": broker.now_s() + 60})
    redis_of(broker).zadd(keys.WORKERS, {"{h:1:0-a}": broker.now_s() - 4000})
    redis_of(broker).execute_command(*words)

    broker.run(heartbeats.remove_expired_workers(broker))

    assert [record.worker_id for record in heartbeats.list_worker_records(broker)] == ["w-1"]
    assert heartbeats.find_worker_record(broker, "bad") is None


def test_a_worker_cannot_pass_for_another(broker: Broker) -> None:
    beat(broker)
    redis_of(broker).set("runqy:worker:bad", redis_of(broker).get("runqy:worker:w-1"))
    redis_of(broker).zadd(keys.WORKER_RECORDS, {"bad": broker.now_s() + 60})

    assert [record.worker_id for record in heartbeats.list_worker_records(broker)] == ["w-1"]
    assert heartbeats.find_worker_record(broker, "bad") is None


def test_running_tasks_of_the_wrong_type_are_ignored(broker: Broker) -> None:
    beat(broker)
    (record,) = heartbeats.list_worker_records(broker)
    workers = keys.workers(record.host, record.pid, record.server_id)
    redis_of(broker).delete(workers)
    redis_of(broker).set(workers, "x")

    assert broker.run(list_running_tasks([record])) == [[]]


@pytest.mark.parametrize("text", ["", "nan", "inf", "1e999", "x"])
def test_invalid_numbers_of_a_go_worker_are_zero(text: str) -> None:
    record = decode_go_worker({b"worker_id": b"w", b"concurrency": text.encode(), b"queues": b"junk"}, "w")

    assert record is not None
    assert (record.concurrency, record.redis_queues) == (0, {})


def test_a_record_of_another_version_is_ignored() -> None:
    assert decode_record(b"{}", "w") is None
    assert decode_record(b"\xff", "w") is None


@pytest.mark.usefixtures("long_lived")
def test_only_expired_workers_are_removed_from_the_indexes(broker: Broker) -> None:
    beat(broker)
    old, ancient = broker.now_s() - 2, broker.now_s() - 4000
    redis_of(broker).zadd(keys.SERVERS, {"asynq:servers:{x:1:y}": old})
    redis_of(broker).zadd(keys.WORKERS, {"asynq:workers:{x:1:y}": old, "go-recent": old, "go-old": ancient})
    redis_of(broker).zadd(keys.WORKERS, {"go-alive": ancient})
    redis_of(broker).hset("asynq:workers:go-alive", mapping=GO_WORKER | {"worker_id": "go-alive"})
    listed = {"lost": old, "forgotten": old - LOST_TTL_S, "never": "+inf", "far": broker.now_s() + 10_000}
    redis_of(broker).zadd(keys.WORKER_RECORDS, listed)

    broker.run(heartbeats.remove_expired_workers(broker))

    assert redis_of(broker).zrange(keys.SERVERS, 0, -1) == [SERVER.encode()]
    assert set(redis_of(broker).zrange(keys.WORKERS, 0, -1)) == {RUNNING.encode(), b"go-recent", b"go-alive"}
    assert redis_of(broker).zrange(keys.WORKER_RECORDS, 0, -1) == [b"lost", b"w-1"]
