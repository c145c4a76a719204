"""A lost reply to each script that writes: it has run, its caller does not know, and sends the request again.

Each request of the scenarios below runs twice; the second time must change nothing. What is in Redis then is what one
run left: no task is taken, finished or stored twice, and none is lost. Of a request that the broker repeats by itself
the network loses the first reply.
"""

import asyncio
import dataclasses
import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis as redis_py

from runqy.broker import configuration_documents, keys
from runqy.broker.async_broker import AsyncBroker
from runqy.broker.broker import Broker
from runqy.broker.configuration_documents import QueueRevision
from runqy.broker.duties.cancellations import enforce_cancellations
from runqy.broker.duties.foreign_ends import ForeignEndSearch
from runqy.broker.duties.forwarder import forward_due
from runqy.broker.duties.janitor import delete_stray_lock, expire_archived, expire_completed
from runqy.broker.duties.orphans import Suspect, restore_orphan
from runqy.broker.duties.pending_timeouts import PendingTask, archive_all_timed_out
from runqy.broker.duties.recoverer import LeaselessWatch, recover_lost
from runqy.broker.keys import QueueKeys
from runqy.broker.queues import pausing
from runqy.broker.queues.deletion import delete_redis_queue, forget_unread_ends
from runqy.broker.rate_limit import acquire
from runqy.broker.replies import Reply, ReplyLost
from runqy.broker.request import Request, RequestBatch
from runqy.broker.scripts import command, script
from runqy.broker.streams.audit_stream import append_record
from runqy.broker.streams.ends import Notify, delete_ends, read_ends
from runqy.broker.streams.run_counters import RunCounters, add_run_counters
from runqy.broker.streams.run_log import remove_runs
from runqy.broker.streams.write_behind import record_delivery
from runqy.broker.tasks import finish, inspector
from runqy.broker.tasks.cancel import cancel
from runqy.broker.tasks.chunks import ChunkBatch, mark_gap, write_chunks
from runqy.broker.tasks.enqueue import IdempotencyKey, IdempotencyRecord, enqueue_unique
from runqy.broker.tasks.enqueue_batch import (
    BatchPart,
    RequestToken,
    delete_idempotency_record,
    enqueue_many,
    enqueue_unique_batch,
)
from runqy.broker.tasks.finish import Completion, Failure
from runqy.broker.tasks.lease import extend
from runqy.broker.tasks.output import OutputChunk, delete_stray_output, write_output
from runqy.broker.tasks.reader import remove_lookup
from runqy.broker.workers import heartbeats
from runqy.broker.workers.claims import claim_worker_id, delete_stale_claims
from runqy.broker.workers.records import WorkerAction, request_action
from runqy.broker.workers.redis_users import StoredUser, remove_stored_users, store_user
from runqy.core.environment.connection_urls import RedisTarget
from runqy.core.formats.durations import Rate
from runqy.errors import BrokerUnavailable
from tests.broker.test_heartbeats import RECORD, running_task
from tests.support import environment
from tests.support.bad_network import BadNetwork, FaultMode
from tests.support.redis_client import redis_of
from tests.support.tasks import QUEUE, new_task, put, take, take_one

OTHER = "mail.default"
KEYS = QueueKeys(QUEUE)
NOTIFY = Notify(batch="b")
DAY_S = 86_400

SENT_ONCE = {
    "dequeue": "asks for the tasks of the same tokens, which is another request (test_dequeue.py)",
    "add_run_counters": "numbers of metrics, of which a lost reply may count some twice (test_run_counters.py)",
    "rate_limit": "a repeated request is another one, and counts (test_rate_limits.py)",
}
"""Scripts that are never sent again by themselves, and why."""

APPENDED_TWICE = {"append_audit": keys.AUDIT_STREAM, "record_delivery": keys.DELIVERIES}
"""Scripts that append an entry with an id, which becomes one row however often it is in the stream."""


def find_writing_scripts() -> list[str]:
    """Return the names of the Lua files that Redis does not keep from writing."""
    names = [
        Path(file.name).stem for file in files("runqy.broker").joinpath("lua").iterdir() if file.name.endswith(".lua")
    ]
    return sorted(name for name in names if "no-writes" not in script(name).source.partition("\n")[0])


class LosingLink(AsyncBroker):
    """Loses the first reply to each request, and sends the request again."""

    network: BadNetwork
    redis: redis_py.Redis

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.effective: set[str] = set()
        """Scripts that changed something, the first time."""
        self.changed: dict[str, list[str]] = defaultdict(list)
        """By script, the keys that a repetition changed."""

    async def _exchange(  # type: ignore[override]
        self, request: Request[Any] | RequestBatch, execute: Any
    ) -> list[Reply]:
        if not request.commands:
            return []
        names = {command.script.name for command in request.commands if command.script is not None}
        before = self.read_all()
        if request.may_repeat:
            await self._lose_reply(request)
        else:
            replies = await execute(request.commands, is_bulky=request.is_bulky)
        once = self.read_all()
        if before != once:
            self.effective |= names
        if request.may_repeat:
            assert not names & SENT_ONCE.keys()
            replies = await execute(request.commands, is_bulky=request.is_bulky)
        elif not names & SENT_ONCE.keys():
            await execute(request.commands, is_bulky=request.is_bulky)
        twice = self.read_all()
        for name in names if once != twice else ():
            self.changed[name] += [key for key in once.keys() | twice.keys() if once.get(key) != twice.get(key)]
        return replies

    async def _lose_reply(self, request: Request[Any] | RequestBatch) -> None:
        """Send a request as the broker does, over a network that ends the connection instead of carrying the reply."""
        await self._connect_again(is_bulky=request.is_bulky)
        self.network.mode = FaultMode.LOSES_RESPONSES
        replies = await self._router.execute(request.commands, is_bulky=request.is_bulky)
        assert {type(reply) for reply in replies} == {ReplyLost}
        self.network.mode = FaultMode.FINE
        await self._connect_again(is_bulky=request.is_bulky)

    async def _connect_again(self, *, is_bulky: bool) -> None:
        while True:
            (reply,) = await self._router.execute([command("PING", key=None)], is_bulky=is_bulky)
            if not isinstance(reply, BrokerUnavailable):
                break
            await asyncio.sleep(0.01)

    def read_all(self) -> dict[str, Any]:
        """Return what is in Redis, but for the ids of entries and times to live."""
        found = {}
        for key in self.redis.scan_iter(count=1000):
            kind = self.redis.type(key).decode()
            readers: dict[str, Callable[[bytes], Any]] = {
                "string": self.redis.get,
                "hash": self.redis.hgetall,
                "list": lambda key: self.redis.lrange(key, 0, -1),
                "set": self.redis.smembers,
                "zset": lambda key: self.redis.zrange(key, 0, -1, withscores=True),
                "stream": lambda key: [entry for _, entry in self.redis.xrange(key)],
            }
            found[key.decode()] = readers[kind](key)
        return found


class LosingBroker(Broker):
    """A broker with such a link, whose clock may be ahead."""

    def __init__(self, network: BadNetwork) -> None:
        target = RedisTarget(addresses=(("127.0.0.1", network.port),))
        super().__init__(target)
        self.on_loop = self.link = LosingLink.connect(target)
        self.link.network, self.link.redis = network, environment.SERVER.client()
        self.later_s = 0

    def now_ns(self) -> int:
        return super().now_ns() + self.later_s * 10**9


def enqueue_tasks(broker: Broker) -> None:
    put(broker, "t1")
    put(broker, "later", process_at_s=broker.now_s() + 60)
    broker.run(enqueue_many(broker, [new_task("b1"), new_task("b2")]))
    broker.run(enqueue_many(broker, [new_task("s1", process_at_s=broker.now_s() + 60), new_task("b3")]))
    unique = new_task("u1", unique_key="k", unique_for_s=500)
    record = IdempotencyRecord(IdempotencyKey(scope="one", fingerprint="f"), b"response")
    broker.run(enqueue_unique(unique, now_ns=broker.now_ns(), record=record, is_cluster=False))
    part = BatchPart(queue=QUEUE, tasks=[new_task("u2", unique_key="l"), new_task("u3")])
    token, key = RequestToken("request", broker.now_ns()), IdempotencyKey(scope="many", fingerprint="f")
    broker.run(enqueue_unique_batch(part, token, key))
    conflict, refused = IdempotencyKey(scope="refused", fingerprint="f"), RequestToken("refused", broker.now_ns())
    broker.run(enqueue_unique_batch(BatchPart(queue=QUEUE, tasks=[]), refused, conflict))
    broker.run(delete_idempotency_record(QUEUE, conflict, refused))


def run_tasks(broker: Broker) -> None:
    put(broker, "done", "again", "failed", "back", "both", retention_s=3600)
    put(broker, "gone", retention_s=0)
    done, again, failed, back, both, gone = take(broker, 6)
    now_ns = broker.now_ns()
    broker.run(extend([done.lease, again.lease], now_ns=now_ns + 10**9))
    broker.run(finish.write_result(done.lease, b"1"))
    broker.run(write_output([OutputChunk(lease=done.lease, text=b"hello", progress=b"{}")]))
    streamed = ChunkBatch(lease=done.lease, run_number=1, offset=0, entries=(b'"a"', b'"b"'))
    broker.run(write_chunks([streamed]))
    broker.run(mark_gap(msgspec.structs.replace(streamed, offset=3)))
    broker.run(cancel(QUEUE, "both", now_ns=now_ns))
    broker.run(finish.complete_all([Completion(done.lease, done.message, b"2")], now_ns=now_ns))
    broker.run(finish.complete(gone.lease, gone.message, b"3", now_ns=now_ns))
    broker.run(finish.retry(again.lease, again.message, Failure(error="e", retry_at_s=broker.now_s()), now_ns=now_ns))
    broker.run(finish.archive(failed.lease, failed.message, error="e", now_ns=now_ns))
    broker.run(finish.requeue(back.lease, back.message, now_ns=now_ns))
    broker.run(finish.requeue(both.lease, both.message, now_ns=now_ns, shared_death=True))
    redis_of(broker).hset(KEYS.task("done"), "notify", NOTIFY.encode())
    ForeignEndSearch().tell_all(broker, [QUEUE])
    (last,) = redis_of(broker).xrevrange(KEYS.runs, count=1)
    milliseconds, number = map(int, last[0].split(b"-"))
    broker.run(remove_runs(QUEUE, (milliseconds, number)))


def maintain(broker: "LosingBroker") -> None:
    put(broker, "lost", "unlisted", "overdue", "again", retention_s=10, notify=NOTIFY)
    put(broker, "due", process_at_s=broker.now_s() + 60)
    take_one(broker)
    redis_of(broker).lrem(KEYS.pending, 1, "unlisted")
    since = redis_of(broker).hget(KEYS.task("unlisted"), "pending_since").decode()
    broker.run(restore_orphan(Suspect(QUEUE, PendingTask("unlisted", since)), now_ns=broker.now_ns()))
    completed = take_one(broker)
    broker.run(finish.complete(completed.lease, completed.message, b"1", now_ns=broker.now_ns()))
    stale = f"{KEYS.group('g')}:{'0' * 8}-0000-0000-0000-{'0' * 12}"
    redis_of(broker).zadd(stale, {"grouped": 1})
    redis_of(broker).zadd(KEYS.aggregation_sets, {stale: 1})
    put(broker, "canceled", queue="elsewhere")
    elsewhere = QueueKeys("elsewhere")
    redis_of(broker).hset(elsewhere.task("canceled"), mapping={"state": "active", "attempts": 1})
    broker.run(cancel("elsewhere", "canceled", now_ns=broker.now_ns()))
    redis_of(broker).hset(elsewhere.task("canceled"), "state", "pending")
    broker.run(enforce_cancellations(broker, ["elsewhere"]))
    redis_of(broker).set(KEYS.lock("stray"), "gone")
    broker.run(delete_stray_lock(QUEUE, KEYS.lock("stray")))
    redis_of(broker).hset(KEYS.output("stray"), "text", "x")
    redis_of(broker).hset(keys.lookup("stray"), "queue", QUEUE)

    broker.later_s = 300
    broker.run(forward_due(broker, [QUEUE]))
    broker.run(recover_lost(broker, [QUEUE], LeaselessWatch()))
    broker.run(archive_all_timed_out(broker, {QUEUE: 100}))
    broker.run(delete_stray_output(QUEUE, "stray"))
    broker.run(remove_lookup(QUEUE, "stray"))
    broker.later_s = 4 * DAY_S
    broker.run(expire_completed(QUEUE, now_ns=broker.now_ns()))
    broker.run(expire_archived(QUEUE, now_ns=broker.now_ns(), default_ttl_s=DAY_S))


def administer(broker: Broker) -> None:
    put(broker, "t1", "t2", "t3", "t4", "stray", notify=NOTIFY)
    broker.run(pausing.pause(QUEUE, now_ns=broker.now_ns(), by="ann"))
    broker.run(pausing.unpause(QUEUE, now_ns=broker.now_ns()))
    broker.run(cancel(QUEUE, "t4", now_ns=broker.now_ns()))
    broker.run(inspector.archive_tasks(QUEUE, ["t1", "t2"], now_ns=broker.now_ns()))
    broker.run(inspector.run_tasks(QUEUE, ["t1"], now_ns=broker.now_ns()))
    broker.run(inspector.delete_tasks(QUEUE, ["t2"]))
    put(broker, "later", process_at_s=broker.now_s() + 60)
    broker.run(inspector.release_tasks(QUEUE, ["later"]))
    redis_of(broker).lrem(KEYS.pending, 1, "stray")
    delete_redis_queue(broker, QUEUE)
    broker.run(delete_ends(QUEUE, [entry.id for entry in broker.run(read_ends(QUEUE, limit=10))]))
    broker.run(forget_unread_ends([QUEUE]))


def serve_workers(broker: "LosingBroker") -> None:
    broker.run(claim_worker_id(broker, "w-1", owner="key", queue="mail", redis_queues=["mail"]))
    broker.run(store_user(broker, StoredUser(field="u", content=b"c"), instance_id="i", owner="key"))
    broker.run(remove_stored_users([StoredUser(field="u", content=b"c")]))
    broker.run(heartbeats.write_heartbeat(RECORD, [running_task("t1")], now_ns=broker.now_ns()))
    broker.run(heartbeats.deregister(dataclasses.replace(RECORD, worker_id="w-2"), now_ns=broker.now_ns()))
    broker.run(request_action("w-1", WorkerAction.DRAIN, request_id="1"))
    broker.run(add_run_counters(QUEUE, RunCounters(requeued=1)))
    broker.run(record_delivery(b"delivery"))
    broker.run(append_record(b"record"))
    broker.run(acquire("client", Rate(5, 60), now_ns=broker.now_ns()))
    redis_of(broker).delete(keys.worker_record("w-1"))
    broker.later_s = 2 * DAY_S
    broker.run(delete_stale_claims(broker))
    broker.run(heartbeats.remove_expired_workers(broker))


def publish(broker: Broker) -> None:
    first = configuration_documents.publish({"queue:a": b"a"}, removed=["queue:b"], seen_revisions=b"", revisions=b"1")
    assert broker.run(first)
    broker.run(configuration_documents.publish({"queue:a": b"b"}, removed=[], seen_revisions=b"1", revisions=b"2"))
    broker.run(configuration_documents.publish_queue_revisions([QueueRevision(queue="a", revision=7)]))


SCENARIOS: tuple[Callable[[Any], None], ...] = (
    enqueue_tasks,
    run_tasks,
    maintain,
    administer,
    serve_workers,
    publish,
)


@pytest.fixture(scope="module")
def losing(redis_server: None) -> Iterator[LosingBroker]:
    """Return a broker that has run the scenarios."""
    network = BadNetwork(environment.SERVER.port, random.Random(0))
    network.loss = 1.0
    broker = LosingBroker(network)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(heartbeats, "HEARTBEAT_TTL_S", 3600)  # no key expires between two looks
        for name in find_writing_scripts():
            # Or the reply that is lost says that there is no such script.
            broker.link.redis.script_load(script(name).source)
        for scenario in SCENARIOS:
            broker.link.redis.flushall()
            broker.later_s = 0
            scenario(broker)
    yield broker
    broker.close()
    network.close()


@pytest.mark.parametrize("name", find_writing_scripts())
def test_a_lost_reply_changes_nothing(losing: LosingBroker, name: str) -> None:
    assert name in losing.link.effective, f"in no scenario {name}.lua changes anything: add a request"
    assert losing.link.changed[name] == ([APPENDED_TWICE[name]] if name in APPENDED_TWICE else [])
