"""A web process whose cluster moves a slot, or loses a node, under load."""

import itertools
import json
import threading
import time
from collections.abc import Iterator

import pytest
import redis as redis_py
from redis.crc import key_slot

from runqy.broker.message import decode
from tests.faults.producers import (
    BATCH_SIZE,
    ENQUEUE,
    ENQUEUE_BATCH,
    QUEUE,
    UNAVAILABLE,
    KeptConnection,
    is_accepted,
    producing,
)
from tests.faults.servers import RECOVERED_S, StartWeb
from tests.faults.stored import KEYS, check_tasks, read_pending
from tests.support.servers import ValkeyServer, start_cluster
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.fault, pytest.mark.cluster]

SLOT = key_slot(KEYS.pending.encode())
LOAD = (ENQUEUE, ENQUEUE, ENQUEUE, ENQUEUE_BATCH)


@pytest.fixture
def nodes() -> Iterator[list[ValkeyServer]]:
    """Return a cluster that the test may break."""
    servers = start_cluster(options=("--appendonly", "yes", "--appendfsync", "always"))
    yield servers
    for server in servers:
        server.stop()


@pytest.fixture
def clients(nodes: list[ValkeyServer]) -> Iterator[list[redis_py.Redis]]:
    """Return a client of each node, that of the queue's slot first."""
    clients = [server.client() for server in nodes]
    clients.sort(key=lambda client: not owns_slot(client))
    yield clients
    for client in clients:
        client.close()


def owns_slot(node: redis_py.Redis) -> bool:
    """Return whether a node serves the queue's slot."""
    my_id = node.execute_command("CLUSTER", "MYID")
    shards = node.execute_command("CLUSTER", "SLOTS")
    return any(first <= SLOT <= last and master[2] == my_id for first, last, master, *_ in shards)


def move_slot(source: redis_py.Redis, target: redis_py.Redis) -> None:
    """Move the queue's slot, key by key, while it is used."""
    port = target.connection_pool.connection_kwargs["port"]
    source_id, target_id = (node.execute_command("CLUSTER", "MYID").decode() for node in (source, target))
    target.execute_command("CLUSTER", "SETSLOT", SLOT, "IMPORTING", source_id)
    source.execute_command("CLUSTER", "SETSLOT", SLOT, "MIGRATING", target_id)
    while keys := source.execute_command("CLUSTER", "GETKEYSINSLOT", SLOT, 20):
        source.execute_command("MIGRATE", "127.0.0.1", port, "", 0, 60_000, "KEYS", *keys)
    for node in (target, source):
        node.execute_command("CLUSTER", "SETSLOT", SLOT, "NODE", target_id)


def test_no_accepted_task_is_lost_while_the_slot_of_its_queue_moves(
    start_web: StartWeb, nodes: list[ValkeyServer], clients: list[redis_py.Redis]
) -> None:
    home, other, _ = clients
    web = start_web("redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes))

    with producing(web.port, *LOAD) as producers:
        for source, target in ((home, other), (other, home)):
            producers.wait_for(is_accepted, 40)
            move_slot(source, target)
        recovery_s = producers.wait_for(is_accepted, 40, timeout_s=RECOVERED_S)

    assert recovery_s < RECOVERED_S, f"it took {recovery_s:.1f} s until tasks were accepted again"
    outcomes = producers.outcomes()
    assert outcomes.keys() <= {(200, ""), *UNAVAILABLE}, outcomes
    check_tasks(producers.ids, *clients, allows_lookups=True)
    in_doubt = outcomes[503, "outcome_unknown"] * BATCH_SIZE
    assert home.llen(KEYS.pending) <= len(producers.ids) + in_doubt


class NumberedEnqueues:
    """Threads that enqueue tasks whose payloads are numbers of their own, and record the answer for each."""

    def __init__(self, port: int) -> None:
        self.answers: dict[int, tuple[int, str]] = {}
        self.ids: dict[int, str] = {}
        self._port, self._numbers, self._may_end = port, itertools.count(), threading.Event()
        self._threads = [threading.Thread(target=self._enqueue) for _ in range(4)]

    def __enter__(self) -> "NumberedEnqueues":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._may_end.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, count: int, status: int) -> None:
        """Return when so many more requests were answered with a status."""
        before = self._count(status)
        wait_until(lambda: self._count(status) >= before + count)

    def _count(self, status: int) -> int:
        return [answer[0] for answer in list(self.answers.values())].count(status)

    def _enqueue(self) -> None:
        connection = KeptConnection(self._port)
        while not self._may_end.is_set():
            number = next(self._numbers)
            reply = connection.send("POST", "/queue/add", json.dumps({"queue": QUEUE, "data": {"n": number}}).encode())
            if reply.ids:
                self.ids[number] = reply.ids[0]
            self.answers[number] = reply.status, reply.code
        connection.close()


def test_each_answer_is_true_while_one_master_after_another_is_away(
    start_web: StartWeb, nodes: list[ValkeyServer], clients: list[redis_py.Redis]
) -> None:
    web = start_web("redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes))
    home = clients[0].connection_pool.connection_kwargs["port"]

    with NumberedEnqueues(web.port) as enqueues:
        enqueues.wait_for(20, 200)
        for node in nodes:
            node.kill()
            enqueues.wait_for(20, 503 if node.port == home else 200)
            time.sleep(1.1)  # the memory is read once a second
            enqueues.wait_for(20, 503 if node.port == home else 200)
            node.start()
            enqueues.wait_for(20, 200)

    check_tasks(enqueues.ids.values(), *clients, allows_lookups=True)
    ids_by_number = read_numbers(clients[0])
    answers = enqueues.answers
    assert set(answers.values()) <= {(200, ""), *UNAVAILABLE}
    assert {n: i for n, i in ids_by_number.items() if answers[n][0] == 200} == enqueues.ids
    untrue = [number for number in ids_by_number if answers[number] == (503, "broker_unavailable")]
    assert not untrue, f"{len(untrue)} tasks were stored though their clients were told that they were not"


def read_numbers(node: redis_py.Redis) -> dict[int, str]:
    """Return the ids of the stored tasks by the numbers in their payloads."""
    ids = [found.decode() for found in read_pending(node)]
    assert len(ids) == len(set(ids))
    payloads = [decode(node.hget(KEYS.task(task_id), "msg")).payload for task_id in ids]
    return {json.loads(payload)["n"]: task_id for payload, task_id in zip(payloads, ids, strict=True)}
