"""A serving worker: its record, and how it spreads tasks."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py

from runqy.broker import keys
from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.queues.stats import count_tasks
from runqy.broker.tasks.enqueue import NewTask
from runqy.broker.tasks.enqueue_batch import enqueue_many
from runqy.broker.workers.heartbeats import list_worker_records
from tests.support.redis_client import redis_of
from tests.support.waiting import eventually
from tests.workers.conftest import StartWorker
from tests.workers.fake_server import FakeServer, registration_response
from tests.workers.processes import add_task, wait_for_record, wait_for_state, wait_task
from workers.runtime.registration import decode_registration

pytestmark = pytest.mark.slow


def test_a_ready_worker_is_listed_and_gone_after_its_end(
    single_broker: Broker, redis: redis_py.Redis, start_worker: StartWorker
) -> None:
    worker = start_worker(RUNQY_CONCURRENCY="8", RUNQY_PROCESSES="2")

    record = eventually(lambda: (found := wait_for_record(single_broker, "ready")).concurrency == 2 and found)
    status = worker.stop()

    assert (record.queue, record.redis_queues, record.free_slots, record.processes) == ("mail", {"mail": 1}, 2, 2)
    assert len(record.commit) == 40
    assert status == 0
    assert list_worker_records(single_broker) == []
    assert not redis.exists(keys.SERVERS, keys.WORKERS)


def test_tasks_are_spread_over_processes(single_broker: Broker, start_worker: StartWorker, tmp_path: Path) -> None:
    start_worker(RUNQY_CONCURRENCY="2", RUNQY_PROCESSES="2")
    tasks = [wait_task(tmp_path, name) for name in ("one", "two")]
    ids = [add_task(single_broker, task) for task in tasks]

    pids = {eventually(lambda t=task: Path(t["started"]).exists() and Path(t["started"]).read_text()) for task in tasks}
    for task in tasks:
        Path(task["until"]).touch()

    assert len(pids) == 2
    assert {wait_for_state(single_broker, one, "completed").state for one in ids} == {"completed"}


@pytest.fixture
def any_queue(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the server accept every queue."""
    plain = server.accepted

    def accepted(body: dict[str, Any]) -> dict[str, Any]:
        response = plain(body)
        response["queue"]["name"] = body["queue"]
        return response | {"sub_queues": [{"name": body["queue"], "priority": 1}]}

    monkeypatch.setattr(server, "accepted", accepted)


@pytest.mark.usefixtures("any_queue")
def test_one_process_serves_several_queues_over_the_same_connections(
    single_broker: Broker, start_worker: StartWorker
) -> None:
    queues = ["mail", "post", "news", "bills"]
    ids = [add_task(single_broker, queue, queue=queue) for queue in queues]
    clients_before = len(redis_of(single_broker).client_list())
    start_worker(RUNQY_QUEUES=",".join(queues))

    records = [wait_for_state(single_broker, one, "completed") for one in ids]

    assert [record.result for record in records] == [json.dumps(queue).encode() for queue in queues]
    assert len({record.worker_id for record in records}) == 4
    assert len(redis_of(single_broker).client_list()) - clients_before <= 5


def count_threads(pid: int) -> int:
    """Return how many threads a process has."""
    return int(Path(f"/proc/{pid}/status").read_text().partition("Threads:")[2].split()[0])


def count_descriptors(pid: int) -> int:
    """Return how many descriptors a process has open; only root may list those of a worker, but see their number."""
    folder = Path(f"/proc/{pid}/fd")
    return folder.stat().st_size or len(list(folder.iterdir()))


@pytest.mark.usefixtures("any_queue")
def test_a_queue_costs_no_thread_and_six_descriptors(single_broker: Broker, start_worker: StartWorker) -> None:
    queues = [f"queue{number}" for number in range(12)]
    worker = start_worker(RUNQY_QUEUES=",".join(queues))
    states = lambda: [record.state for record in list_worker_records(single_broker)]

    eventually(lambda: states() == ["ready"] * len(queues), within_s=60, what=states)

    pid = worker.process.pid
    eventually(lambda: count_threads(pid) <= 3, what=lambda: count_threads(pid))
    most = 24 + 6 * len(queues)
    eventually(lambda: count_descriptors(pid) <= most, what=lambda: count_descriptors(pid))
    print("threads", count_threads(pid), "descriptors", count_descriptors(pid))


def test_sixteen_queues_share_a_redis_user_and_more_have_another(
    single_broker: Broker, server: FakeServer, start_worker: StartWorker
) -> None:
    queues = [f"queue{number}" for number in range(17)]
    start_worker(RUNQY_QUEUES=",".join(queues))

    eventually(lambda: len(server.requests) >= 17)

    instances = Counter(request["instance_id"] for request in server.requests)
    assert sorted(instances.values()) == [1, 16]


def test_a_worker_serves_the_sub_queues_of_a_cluster(
    cluster_broker: Broker, server: FakeServer, start_worker: StartWorker
) -> None:
    nodes = [f"{node.host}:{node.port}" for node in redis_of(cluster_broker).get_primaries()]
    server.response["redis"] |= {"addr": nodes[0], "mode": "cluster", "addresses": nodes}
    server.response["sub_queues"] = [{"name": "mail_high", "priority": 5}, {"name": "mail_low", "priority": 1}]
    start_worker(RUNQY_CONCURRENCY="4")

    ids = [add_task(cluster_broker, n, queue=f"mail_{('high', 'low')[n % 2]}") for n in range(20)]
    results = [wait_for_state(cluster_broker, one, "completed").result for one in ids]

    assert results == [str(n).encode() for n in range(20)]
    assert wait_for_record(cluster_broker, "ready").redis_queues == {"mail_high": 5, "mail_low": 1}


def test_a_flood_of_high_priority_leaves_low_priority_its_share(
    single_broker: Broker, server: FakeServer, start_worker: StartWorker
) -> None:
    server.response["sub_queues"] = [{"name": "mail_high", "priority": 3}, {"name": "mail_low", "priority": 1}]
    queues = ["mail_high", "mail_low"]
    for start in range(0, 2000, 100):
        new = [
            NewTask(id=f"{name}{start + n}", queue=name, payload=b"1", retention_s=3600)
            for name in queues
            for n in range(100)
        ]
        single_broker.run(enqueue_many(single_broker, new))

    start_worker(RUNQY_CONCURRENCY="8", RUNQY_PROCESSES="2")

    def count_done() -> int:
        counts = single_broker.run(count_tasks(queues, now_ns=single_broker.now_ns()))
        return sum(2000 - count.pending - count.active for count in counts)

    eventually(lambda: count_done() >= 500)
    with redis_of(single_broker).pipeline(transaction=False) as pipeline:
        for name in queues:
            for number in range(2000):
                pipeline.hget(QueueKeys(name).task(f"{name}{number}"), "started")
        started = [int(value or 0) for value in pipeline.execute()]
    begins = sorted((began_ns, position < 2000) for position, began_ns in enumerate(started) if began_ns)
    high = sum(is_high for _, is_high in begins[:400])  # both queues had more
    assert 0.12 < (400 - high) / 400 < 0.4  # a quarter; outside once in a million runs


def test_secrets_are_in_no_log_and_no_record(
    single_broker: Broker, redis: redis_py.Redis, server: FakeServer, start_worker: StartWorker
) -> None:
    server.response["vaults"] = {"TOKEN": "planted-in-vault"}
    server.response["git_token"] = "planted-in-token"
    worker = start_worker()
    task_id = add_task(single_broker, {"do": "log", "text": "my token is planted-in-vault"})
    failed = add_task(single_broker, {"do": "fail", "text": "refused planted-in-vault"})
    wait_for_state(single_broker, task_id, "completed")
    record = wait_for_state(single_broker, failed, "archived")
    worker.wait_for("child_output")
    worker.stop()

    assert "my token is ****" in worker.log.read_text()
    assert "planted" not in worker.log.read_text()
    assert record.error.rstrip().endswith("refused ****")


def test_a_worker_keeps_the_number_of_archived_tasks_that_the_server_sets(
    single_broker: Broker, server: FakeServer, start_worker: StartWorker
) -> None:
    server.response["archive_max_tasks"] = 1
    of = QueueKeys("mail")
    redis_of(single_broker).hset(of.task("old"), mapping={"msg": b"", "state": "archived"})
    redis_of(single_broker).zadd(of.archived, {"old": single_broker.now_s() - 60})
    start_worker()

    task_id = add_task(single_broker, {"do": "fail", "text": "no"}, max_retry=0)

    wait_for_state(single_broker, task_id, "archived")
    assert redis_of(single_broker).zrange(of.archived, 0, -1) == [task_id.encode()]


def test_a_worker_of_gos_server_keeps_as_many_archived_tasks_as_asynq() -> None:
    response = registration_response(redis_port=1, git_url="file:///nowhere")
    del response["archive_max_tasks"]

    assert decode_registration(json.dumps(response).encode()).archive_max_tasks == 10_000


def test_an_idle_worker_gets_the_task_that_a_busy_one_could_not_start(
    single_broker: Broker, start_worker: StartWorker, tmp_path: Path
) -> None:
    start_worker(RUNQY_CONCURRENCY="8")
    tasks = [wait_task(tmp_path, name) for name in ("first", "second")]
    add_task(single_broker, tasks[0])
    eventually(Path(tasks[0]["started"]).exists)
    add_task(single_broker, tasks[1])
    start_worker(RUNQY_CONCURRENCY="8")

    eventually(Path(tasks[1]["started"]).exists)

    for task in tasks:
        Path(task["until"]).touch()
