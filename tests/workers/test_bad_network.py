"""A worker whose connection to Redis is slow, cut or loses replies, or that was suspended itself."""

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis as redis_py

from runqy.broker.broker import Broker
from runqy.broker.duties.forwarder import forward_due
from runqy.broker.duties.recoverer import LeaselessWatch, recover_lost
from runqy.broker.keys import QueueKeys
from runqy.broker.queues.stats import count_tasks
from tests.support import environment
from tests.support.bad_network import BadNetwork, FaultMode
from tests.support.processes import paused
from tests.support.waiting import eventually
from tests.workers.conftest import StartWorker
from tests.workers.fake_server import FakeServer
from tests.workers.processes import add_task, wait_for_state, wait_task
from tools.soak.processes import cpu_s

pytestmark = pytest.mark.slow

MAIL = QueueKeys("mail")
TASKS_A_FAULT = 40


@pytest.fixture
def network(server: FakeServer) -> Iterator[BadNetwork]:
    """Return the way from the workers to Redis."""
    seed = random.randrange(2**32)
    print("seed", seed)
    network = BadNetwork(environment.SERVER.port, random.Random(seed))
    server.response["redis"]["addr"] = f"127.0.0.1:{network.port}"
    server.response["lease_secs"] = 10
    yield network
    network.close()


@pytest.fixture
def maintenance(single_broker: Broker) -> Iterator[None]:
    """Recover lost tasks and forward due ones continuously."""
    watch, has_ended = LeaselessWatch(), threading.Event()

    def keep_up() -> None:
        while not has_ended.wait(0.1):
            single_broker.run(recover_lost(single_broker, ["mail"], watch, grace_s=0))
            single_broker.run(forward_due(single_broker, ["mail"]))

    keeper = threading.Thread(target=keep_up)
    keeper.start()
    yield
    has_ended.set()
    keeper.join()


@pytest.mark.usefixtures("maintenance")
def test_no_bad_network_loses_a_task_or_records_one_twice(
    single_broker: Broker, redis: redis_py.Redis, network: BadNetwork, start_worker: StartWorker
) -> None:
    worker = start_worker(RUNQY_CONCURRENCY="4")
    wait_for_state(single_broker, add_task(single_broker, 0), "completed")

    def completed() -> int:
        return single_broker.run(count_tasks(["mail"], now_ns=single_broker.now_ns()))[0].completed

    modes = (FaultMode.SLOW, FaultMode.IN_PIECES, FaultMode.LOSES_RESPONSES, FaultMode.CLOSES_SLOWLY)
    for round_number, mode in enumerate(modes):
        network.mode = mode
        for number in range(TASKS_A_FAULT):
            add_task(single_broker, number, max_retry=100)
        goal = 1 + (round_number + 1) * TASKS_A_FAULT
        eventually(lambda goal=goal: completed() > goal - TASKS_A_FAULT)
        network.reset()
        eventually(lambda goal=goal: completed() == goal, what=worker.log.read_text, within_s=60)

    succeeded = int(redis.get(MAIL.processed) or 0) - int(redis.get(MAIL.failed) or 0)
    assert succeeded == 1 + len(modes) * TASKS_A_FAULT
    assert not redis.exists(MAIL.active, MAIL.lease, MAIL.pending, MAIL.retry, MAIL.archived)
    assert not worker.events("round_trip_failed")
    assert worker.stop() == 0


@pytest.mark.usefixtures("maintenance")
def test_half_open_connections_are_replaced_without_a_busy_loop(
    single_broker: Broker, redis: redis_py.Redis, network: BadNetwork, start_worker: StartWorker
) -> None:
    worker = start_worker(RUNQY_CONCURRENCY="4")
    wait_for_state(single_broker, add_task(single_broker, 0), "completed")

    began_s, before_s = time.monotonic(), cpu_s(worker.process.pid)
    network.half_open()
    wait_for_state(single_broker, add_task(single_broker, 0, max_retry=100), "completed", within_s=90)
    share = (cpu_s(worker.process.pid) - before_s) / (time.monotonic() - began_s)  # nearly all of it was waiting
    ids = [add_task(single_broker, number, max_retry=100) for number in range(1, TASKS_A_FAULT)]
    for task_id in ids:
        wait_for_state(single_broker, task_id, "completed", within_s=90)

    assert share < 0.5, f"the worker used {share:.0%} of a core"
    assert int(redis.get(MAIL.processed) or 0) - int(redis.get(MAIL.failed) or 0) == 1 + TASKS_A_FAULT
    assert not redis.exists(MAIL.active, MAIL.lease, MAIL.pending, MAIL.retry, MAIL.archived)
    assert worker.stop() == 0


@pytest.mark.usefixtures("maintenance")
def test_results_that_take_longer_than_a_lease_to_arrive_cost_no_lease(
    single_broker: Broker, redis: redis_py.Redis, server: FakeServer, network: BadNetwork, start_worker: StartWorker
) -> None:
    server.response["lease_secs"] = 8
    worker = start_worker(RUNQY_CONCURRENCY="3", RUNQY_PROCESSES="3")
    wait_for_state(single_broker, add_task(single_broker, 0), "completed")

    network.mode = FaultMode.SLOW
    ids = [add_task(single_broker, {"do": "big", "bytes": 5 << 20}) for _ in range(3)]
    next_id = add_task(single_broker, 0)  # its lease does not begin before such a result has arrived

    for task_id in ids:
        assert len(wait_for_state(single_broker, task_id, "completed", "archived", within_s=60).result or b"") > 5 << 20
    wait_for_state(single_broker, next_id, "completed", "archived")
    assert (redis.get(MAIL.processed), redis.get(MAIL.failed)) == (b"5", None)
    network.mode = FaultMode.FINE
    assert worker.stop() == 0


@pytest.mark.usefixtures("maintenance")
def test_a_worker_that_was_frozen_past_its_lease_changes_nothing_about_the_others_result(
    single_broker: Broker, redis: redis_py.Redis, server: FakeServer, start_worker: StartWorker, tmp_path: Path
) -> None:
    server.response["lease_secs"] = 60
    frozen = start_worker()
    task = wait_task(tmp_path)
    started = Path(task["started"])
    task_id = add_task(single_broker, task)
    first_child = eventually(lambda: started.exists() and started.read_text())
    with paused(frozen.process.pid):
        eventually(lambda: redis.zadd(MAIL.lease, {task_id: 1}, xx=True) or not redis.exists(MAIL.active))  # it ends
        eventually(lambda: not redis.exists(MAIL.active))
        start_worker()
        eventually(lambda: started.read_text() not in ("", first_child))

        Path(task["until"]).touch()
        record = wait_for_state(single_broker, task_id, "completed")
    eventually(lambda: frozen.events("finish_refused") or frozen.events("lease_lost"))

    assert wait_for_state(single_broker, task_id, "completed") == record
    assert record.worker_id != frozen.events("registered")[0]["worker_id"]
    assert (redis.get(MAIL.processed), redis.get(MAIL.failed)) == (b"2", b"1")
    assert frozen.stop() == 0
