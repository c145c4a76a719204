"""The Redis user of a worker does its work, and reaches nothing of other queues, other workers or the server."""

import asyncio
import contextlib
import hashlib
import re
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import pytest

from runqy.broker import keys
from runqy.broker.async_broker import AsyncBroker
from runqy.broker.broker import Broker
from runqy.broker.pubsub import Subscriber, read_queue_revision
from runqy.broker.request import Request, raise_error
from runqy.broker.scripts import command, script
from runqy.broker.tasks.dequeue import QueueWeight, dequeue_tasks, plan_dequeue
from runqy.broker.tasks.enqueue import NewTask, enqueue, new_task_id
from runqy.broker.tasks.finish import Completion, Failure, archive, complete, complete_all, requeue, retry
from runqy.broker.tasks.lease import LeasedTask, extend
from runqy.broker.workers import redis_users
from runqy.broker.workers.heartbeats import deregister, write_heartbeat
from runqy.broker.workers.records import WorkerRecord, WorkerState
from runqy.broker.workers.redis_users import COMMANDS, RedisUser, create_users, delete_users, list_users, set_users
from runqy.core.environment.connection_urls import RedisTarget
from runqy.errors import BrokerCommandRefused, BrokerRefused, BrokerUnavailable, OutcomeUnknown
from tests.support.event_loop import wait_until
from tests.support.maintenance_duties import indexes_of
from tests.support.redis_client import redis_of
from tests.support.waiting import PATIENCE_S

INSTANCE = "550e8400-e29b-41d4-a716-446655440000"
OTHER_INSTANCE = "550e8400-e29b-41d4-a716-446655440001"
USER = RedisUser(
    name="runqy-w-tests",
    password_sha256=hashlib.sha256(b"secret").hexdigest(),
    instance_id=INSTANCE,
    worker_ids=("w",),
    redis_queues=("mail", "mail_low"),
)
RECORD = WorkerRecord(
    worker_id="w",
    host="h",
    pid=7,
    server_id=f"{INSTANCE}-1",
    queue="mail",
    redis_queues={"mail": 1},
    concurrency=1,
    state=WorkerState.READY,
    started_at_s=1_700_000_000,
)
WORKER_SCRIPTS = (
    *("dequeue", "extend_leases", "complete", "complete_and_delete", "retry", "archive", "requeue"),
    *("write_record", "write_server", "register_worker"),
)
"""All that a worker runs."""
T = TypeVar("T")


@pytest.fixture
def target(broker: Broker, request: pytest.FixtureRequest) -> RedisTarget:
    """Return how the server enters Redis, where no worker of another test has left a user."""
    broker.run(delete_users(broker, frozenset().union(*broker.run(list_users(broker)).values())))
    if broker.is_cluster:
        cluster: RedisTarget = request.getfixturevalue("cluster_target")
        return cluster
    options = redis_of(broker).connection_pool.connection_kwargs
    return RedisTarget(addresses=((options["host"], options["port"]),))


class Worker:
    """A Redis user and its connection on its own event loop."""

    def __init__(self, target: RedisTarget) -> None:
        self.is_cluster = target.mode == "cluster"
        self._loop = asyncio.Runner()
        self.broker = self._loop.run(self._connect(target))
        self.received: list[tuple[str, bytes]] = []
        self.gaps = 0
        self._subscriber: Subscriber | None = None
        self.now_ns = self.broker.now_ns

    def run(self, work: Request[T] | Coroutine[Any, Any, T]) -> T:
        return self._loop.run(self.broker.send(work) if isinstance(work, Request) else work)

    def send(self, *words: str, key: str | None = None) -> Any:
        """Run one command and return its reply; raise the error of an error reply."""
        return self.run(Request((command(*words, key=key),), lambda replies: replies[0]))

    def subscribe(self, *channels: str) -> bool:
        return self._loop.run(self._subscribe(channels))

    def wait_until(self, is_so: Callable[[], object]) -> None:
        self._loop.run(wait_until(is_so))

    def close(self) -> None:
        self._loop.run(self._close())
        self._loop.close()

    @staticmethod
    async def _connect(target: RedisTarget) -> AsyncBroker:
        broker = AsyncBroker.connect(target)
        await broker.measure_clock()
        return broker

    async def _subscribe(self, channels: Sequence[str]) -> bool:
        if self._subscriber is None:
            self._subscriber = Subscriber(
                self.broker, on_message=lambda *event: self.received.append(event), on_gap=self._note_gap
            )
            await self._subscriber.start()
        return await self._subscriber.subscribe(channels, timeout_s=PATIENCE_S)

    def _note_gap(self) -> None:
        self.gaps += 1

    async def _close(self) -> None:
        if self._subscriber is not None:
            await self._subscriber.close()
        await self.broker.close()


@pytest.fixture
def worker(broker: Broker, target: RedisTarget) -> Iterator[Worker]:
    """Return a connection with the Redis user of a worker of the queues `mail` and `mail_low`."""
    broker.run(create_users(broker, [USER], target=target))
    entered = Worker(replace(target, username=USER.name, password="secret"))
    yield entered
    entered.close()
    broker.run(delete_users(broker, [USER.name]))


def add(broker: Broker, *, queue: str = "mail", **options: int) -> str:
    task = NewTask(id=new_task_id(), queue=queue, payload=b"{}", **options)
    broker.run(enqueue(task, now_ns=broker.now_ns()))
    return task.id


def take(worker: Worker, count: int, *queues: str) -> list[LeasedTask]:
    weights = [QueueWeight(queue=queue) for queue in queues or ("mail",)]
    order = plan_dequeue(weights, count, worker_id="w", wake_token=redis_users.new_wake_token(INSTANCE))
    return raise_error(worker.run(dequeue_tasks(worker.broker, order, now_ns=worker.now_ns()))[0])


def error_of(worker: Worker) -> BrokerUnavailable:
    """Return why a worker cannot dequeue tasks."""
    with pytest.raises(BrokerUnavailable) as failure:
        take(worker, 1)
    return failure.value


def test_it_does_all_that_a_worker_does(broker: Broker, worker: Worker) -> None:
    ids = [add(broker) for _ in range(5)] + [add(broker, retention_s=0), add(broker, queue="mail_low")]
    failure = Failure(error="no", retry_at_s=worker.now_ns() // 10**9 + 60)

    taken = {task.lease.task_id: task for task in take(worker, 9, "mail", "mail_low")}
    first, second, third, fourth, fifth, unkept, low = (taken[task_id] for task_id in ids)
    extension = worker.run(extend([first.lease, second.lease], now_ns=worker.now_ns()))
    worker.run(complete_all([Completion(first.lease, first.message, b"1")], now_ns=worker.now_ns()))
    worker.run(retry(second.lease, second.message, failure, now_ns=worker.now_ns()))
    worker.run(archive(third.lease, third.message, error="no", now_ns=worker.now_ns()))
    worker.run(requeue(fourth.lease, now_ns=worker.now_ns()))
    worker.run(retry(fifth.lease, fifth.message, replace(failure, child_died=True), now_ns=worker.now_ns()))
    worker.run(complete(unkept.lease, unkept.message, now_ns=worker.now_ns()))
    worker.run(complete(low.lease, low.message, now_ns=worker.now_ns()))
    worker.run(write_heartbeat(RECORD, now_ns=worker.now_ns()))
    worker.run(deregister(RECORD, now_ns=worker.now_ns()))
    worker.run(read_queue_revision("mail"))

    assert not extension.lost
    assert [indexes_of(broker, one, "mail") for one in ids[:6]] == [
        ["completed"],
        ["retry"],
        ["archived"],
        ["pending"],
        ["retry"],
        [],
    ]
    assert indexes_of(broker, low.lease.task_id, "mail_low") == ["completed"]


def test_it_may_run_the_commands_of_a_workers_scripts_and_few_others() -> None:
    used = {name.lower() for one in WORKER_SCRIPTS for name in re.findall(r"call\('(\w+)'", script(one).source)}
    plain = {
        "evalsha",
        "script|load",
        "ping",
        "time",
        "subscribe",
        "unsubscribe",
        "hget",
        "llen",
        "exists",
        "del",
        "set",
    }

    assert {*COMMANDS} == (used | plain) - {"publish"}


FORBIDDEN_KEYS = [
    ("RPUSH", "asynq:{other}:pending", "forged"),
    ("LRANGE", "asynq:{other}:pending", "0", "-1"),
    ("HGET", "asynq:{other}:t:1", "msg"),
    ("HSET", "asynq:{other}:t:1", "msg", "forged"),
    ("SET", "runqy:q:{other}:pause", "1"),
    ("LRANGE", "asynq:{mail_high}:pending", "0", "-1"),
    ("HGET", "asynq:t:1", "queue"),
    ("HSET", "asynq:t:1", "queue", "other"),
    ("SET", "asynq:queues", "1"),
    ("HGET", keys.CONFIG_DOCUMENTS, "queue:mail"),
    ("HGETALL", keys.CONFIG_DOCUMENTS),
    ("HSET", keys.CONFIG_DOCUMENTS, "queue:mail", "forged"),
    ("DEL", keys.CONFIG_DOCUMENTS),
    ("HGETALL", keys.REDIS_USERS),
    ("HSET", keys.REDIS_USERS, "runqy-w-tests/w", "forged"),
    ("HSET", keys.QUEUE_REVISIONS, "mail", "1"),
    ("HGETALL", keys.QUEUE_REVISIONS),
    ("HSET", keys.worker_requests("another"), "stop", "1"),
    ("DEL", keys.worker_requests("w")),
    ("GET", "runqy:worker:another"),
    ("SET", "runqy:worker:another", "{}"),
    ("DEL", keys.SERVERS),
    ("ZRANGE", keys.WORKER_RECORDS, "0", "-1"),
    ("SET", keys.server_info("h", 7, f"{OTHER_INSTANCE}-1"), "forged"),
    ("SET", "runqy:rate:key:1", "1"),
    ("GET", "runqy:cache:1:a"),
    ("PUBLISH", keys.CANCEL_CHANNEL, "t1"),
    ("PUBLISH", keys.CHANGED_CHANNEL, "mail"),
]


def test_it_cannot_access_keys_of_others(worker: Worker) -> None:
    allowed = []
    for words in FORBIDDEN_KEYS:
        with contextlib.suppress(BrokerRefused):
            allowed.append((words, worker.send(*words, key=words[1])))

    assert allowed == []


FORBIDDEN_COMMANDS = [
    *("SCAN 0", "KEYS *", "RANDOMKEY", "DBSIZE", "FLUSHALL", "FLUSHDB", "SWAPDB 0 1", "INFO", "MONITOR", "SHUTDOWN"),
    *("SCRIPT FLUSH", "SCRIPT KILL", "EVAL return(1) 0", "FUNCTION FLUSH", "FUNCTION LIST", "CONFIG GET *"),
    *("ACL WHOAMI", "ACL USERS", "ACL SETUSER runqy-w-tests allkeys", "CLIENT LIST", "CLIENT KILL TYPE normal"),
    *("PSUBSCRIBE *", "PUBSUB CHANNELS", "CLUSTER RESET", "REPLICAOF NO ONE", "SAVE", "LATENCY RESET"),
]


def test_it_cannot_administer_or_list_keys(worker: Worker) -> None:
    allowed = []
    for words in FORBIDDEN_COMMANDS:
        with contextlib.suppress(BrokerRefused):
            allowed.append((words, worker.send(*words.split())))

    assert allowed == []


def test_scripts_that_it_loads_are_checked_too(broker: Broker, worker: Worker) -> None:
    own, other = "asynq:{mail}:pending", "asynq:{mail}x:t:1"  # of another queue, in the same slot
    redis_of(broker).hset(other, "msg", "secret")
    sha = worker.send("SCRIPT", "LOAD", "return redis.call('HGET', ARGV[1], 'msg')", key=own).decode()

    with pytest.raises(BrokerCommandRefused, match=r"ACL failure|can't access"):
        worker.send("EVALSHA", sha, "1", own, other, key=own)


def test_a_user_receives_only_its_own_wake_ups(broker: Broker, worker: Worker) -> None:
    own, another = keys.wake_channel(f"{INSTANCE}:abc"), keys.wake_channel(f"{OTHER_INSTANCE}:abc")

    is_confirmed = worker.subscribe(keys.CANCEL_CHANNEL, keys.CHANGED_CHANNEL, own)
    redis_of(broker).publish(own, "mail")

    assert is_confirmed
    worker.wait_until(lambda: worker.received == [(own, b"mail")])
    with pytest.raises(BrokerRefused):
        worker.send("SUBSCRIBE", another)


def test_a_second_registration_adds_its_queues_and_keeps_the_subscription(
    broker: Broker, target: RedisTarget, worker: Worker
) -> None:
    worker.subscribe(keys.CANCEL_CHANNEL)

    broker.run(create_users(broker, [replace(USER, worker_ids=("w2",), redis_queues=("other",))], target=target))
    redis_of(broker).publish(keys.CANCEL_CHANNEL, "t1")

    worker.wait_until(lambda: worker.received == [(keys.CANCEL_CHANNEL, b"t1")])
    assert worker.gaps == 0
    for queue in ("mail", "other"):
        add(broker, queue=queue)
        assert len(take(worker, 1, queue)) == 1


def test_rights_of_a_user_can_be_reduced(broker: Broker, target: RedisTarget, worker: Worker) -> None:
    for node in broker.run(list_users(broker)):
        broker.run(
            set_users(broker, node, [replace(USER, redis_queues=("mail_low",))], target=target, is_narrowing=True)
        )

    assert take(worker, 1, "mail_low") == []
    with pytest.raises(BrokerRefused):
        take(worker, 1)


def test_a_deleted_user_loses_its_connections_everywhere(broker: Broker, worker: Worker) -> None:
    worker.subscribe(keys.CANCEL_CHANNEL)
    take(worker, 1)

    broker.run(delete_users(broker, [USER.name]))

    assert {*broker.run(list_users(broker)).values()} == {frozenset()}
    errors = [error_of(worker) for _ in range(3)]
    assert isinstance(errors[0], OutcomeUnknown)
    assert isinstance(errors[-1], BrokerRefused)


def test_users_with_other_names_are_neither_listed_nor_deleted(single_broker: Broker) -> None:
    single_broker.run(delete_users(single_broker, single_broker.run(list_users(single_broker))[""]))
    redis_of(single_broker).execute_command("ACL", "SETUSER", "other")

    single_broker.run(delete_users(single_broker, ["other", "default"]))

    users = redis_of(single_broker).execute_command("ACL", "USERS")
    assert b"other" in users
    assert single_broker.run(list_users(single_broker)) == {"": frozenset()}
    redis_of(single_broker).execute_command("ACL", "DELUSER", "other")
