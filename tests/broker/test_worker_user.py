"""The Redis user that the documentation gives to workers can do a worker's work, and nothing to the configuration."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis as redis_py

from runqy.broker import keys
from runqy.broker.broker import Broker
from runqy.broker.request import Request
from runqy.broker.scripts import command
from runqy.broker.tasks.chunks import ChunkBatch, mark_gap, read_chunks, write_chunks
from runqy.broker.tasks.dequeue import QueueWeight, dequeue_tasks, plan_dequeue
from runqy.broker.tasks.enqueue import NewTask, enqueue, new_task_id
from runqy.broker.tasks.finish import complete, requeue
from runqy.broker.tasks.lease import extend
from runqy.broker.tasks.output import OutputChunk, write_output
from runqy.broker.workers.heartbeats import write_heartbeat
from runqy.broker.workers.records import WorkerRecord, WorkerState
from runqy.core.environment.connection_urls import RedisTarget
from runqy.errors import BrokerRefused
from tests.support import environment
from tests.support.redis_client import redis_of

RECORD = WorkerRecord(
    worker_id="w",
    host="h",
    pid=7,
    server_id="s",
    queue="mail",
    redis_queues={"mail": 1},
    concurrency=1,
    state=WorkerState.READY,
    started_at_s=1_700_000_000,
)
OPERATIONS = Path(__file__).parents[2] / "docs/reference/redis-users.md"


@pytest.fixture
def worker_broker(redis: redis_py.Redis) -> Iterator[Broker]:
    """Return a broker that enters as the documented user."""
    rule = re.search(r"^ACL SETUSER worker .*$", OPERATIONS.read_text(), re.MULTILINE)
    assert rule is not None
    redis.execute_command(*shlex.split(rule.group().replace(">PASSWORD", ">secret")))
    address = (("127.0.0.1", environment.SERVER.port),)
    broker = Broker(RedisTarget(addresses=address, username="worker", password="secret"))
    yield broker
    broker.close()
    redis.execute_command("ACL", "DELUSER", "worker")


def test_it_takes_extends_and_finishes(single_broker: Broker, worker_broker: Broker) -> None:
    for _ in range(2):
        single_broker.run(enqueue(NewTask(id=new_task_id(), queue="mail", payload=b"{}"), now_ns=1))
    worker_broker.measure_clock()

    order = plan_dequeue([QueueWeight(queue="mail")], 3, worker_id="w", wake_token="t")
    (first, second), _ = worker_broker.run(dequeue_tasks(worker_broker, order, now_ns=worker_broker.now_ns()))
    extension = worker_broker.run(extend([first.lease, second.lease], now_ns=worker_broker.now_ns()))
    is_written = worker_broker.run(write_output([OutputChunk(lease=first.lease, text=b"line\n", progress=b"{}")]))
    batch = ChunkBatch(lease=first.lease, run_number=1, offset=0, entries=(b"1",))
    streamed = worker_broker.run(write_chunks([batch]))
    kept = worker_broker.run(read_chunks("mail", first.lease.task_id)).entries
    worker_broker.run(mark_gap(batch))
    worker_broker.run(complete(first.lease, first.message, b"1", now_ns=worker_broker.now_ns()))
    worker_broker.run(requeue(second.lease, now_ns=worker_broker.now_ns()))
    worker_broker.run(write_heartbeat(RECORD, now_ns=worker_broker.now_ns()))

    assert not extension.lost
    assert (is_written, streamed, kept) == ([True], [1], (b"1",))
    assert redis_of(single_broker).zcard("asynq:{mail}:completed") == 1
    assert redis_of(single_broker).lrange("asynq:{mail}:pending", 0, -1) == [second.lease.task_id.encode()]
    assert redis_of(single_broker).exists("runqy:worker:w") == 1


def test_it_listens_to_its_channels(worker_broker: Broker) -> None:
    subscription = redis_of(worker_broker).pubsub(ignore_subscribe_messages=True)

    subscription.subscribe(keys.CANCEL_CHANNEL, keys.CHANGED_CHANNEL, keys.wake_channel("t"))

    for _ in range(3):
        assert subscription.get_message(timeout=1) is None  # a confirmation, and no refusal
    subscription.close()


@pytest.mark.parametrize("words", [("HGETALL",), ("HSET", "queue:mail", "forged"), ("DEL",)])
def test_it_cannot_touch_the_published_configuration(worker_broker: Broker, words: tuple[str, ...]) -> None:
    name, *rest = words

    with pytest.raises(BrokerRefused):
        worker_broker.run(Request((command(name, keys.CONFIG_DOCUMENTS, *rest, key=keys.CONFIG_DOCUMENTS),), list))
