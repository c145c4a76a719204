"""The maintenance process."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator

import pytest

from runqy.broker import keys
from runqy.broker.broker import Broker
from runqy.core.environment.connection_urls import RedisTarget
from tests.support.maintenance import start_maintenance
from tests.support.maintenance_duties import KEYS, put
from tests.support.redis_client import redis_of
from tests.support.servers import ValkeyServer
from tests.support.waiting import wait_until
from vaults.access_log import VaultGrant, record_delivery
from vaults.models import VaultDelivery

pytestmark = pytest.mark.slow

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(configuration: None) -> Iterator[Start]:
    """Start maintenance processes on the tests' Redis and database, and end what is left of them."""
    processes: list[subprocess.Popen[str]] = []

    def start_one(**changes: str) -> "subprocess.Popen[str]":
        process = start_maintenance(**changes)
        processes.append(process)
        return process

    yield start_one
    for process in processes:
        process.kill()
        process.communicate()


def make_due(broker: Broker, count: int, name: str) -> None:
    for i in range(count):
        put(broker, f"{name}{i}", process_at_s=broker.now_s() + 1000)
    redis_of(broker).zadd(KEYS.scheduled, {f"{name}{i}": 1 for i in range(count)})


def deliver(count: int, name: str) -> None:
    for i in range(count):
        grant = VaultGrant(vault="secrets", versions={"TOKEN": 1}, state="s")
        record_delivery(worker_id=f"{name}{i}", queue="mail", grants=[grant])


def test_it_lists_its_duties_and_stops_at_sigterm(single_broker: Broker, start: Start) -> None:
    process = start()
    first_line = process.stdout.readline()
    make_due(single_broker, 1, "t")
    wait_until(lambda: redis_of(single_broker).llen(KEYS.pending) == 1, timeout_s=60)

    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)  # some duties come round once a minute

    assert first_line.startswith("Running duties: ")
    assert {"forwarder", "audit_recorder", "run_history"} <= {*first_line.removeprefix("Running duties: ").split(", ")}
    on_a_busy_machine = ("broker_unavailable", "duty_resumed", "broker_available")
    assert [line for line in errors.splitlines() if not any(event in line for event in on_a_busy_machine)] == []
    assert process.returncode == 0


def test_a_signal_that_the_kernel_gives_to_another_thread_stops_it(single_broker: Broker, start: Start) -> None:
    process = start()
    make_due(single_broker, 1, "t")
    wait_until(lambda: redis_of(single_broker).llen(KEYS.pending) == 1, timeout_s=60)
    threads = [int(name) for name in os.listdir(f"/proc/{process.pid}/task")]

    os.kill(next(thread for thread in threads if thread != process.pid), signal.SIGTERM)

    process.communicate(timeout=60)
    assert process.returncode == 0


def test_two_processes_forward_each_task_once_although_one_is_killed(single_broker: Broker, start: Start) -> None:
    first, second = start(), start()
    for process in (first, second):
        process.stdout.readline()

    make_due(single_broker, 300, "a")
    wait_until(lambda: redis_of(single_broker).llen(KEYS.pending) > 0)
    first.kill()
    make_due(single_broker, 300, "b")
    wait_until(lambda: redis_of(single_broker).zcard(KEYS.scheduled) == 0)

    pending = [task_id.decode() for task_id in redis_of(single_broker).lrange(KEYS.pending, 0, -1)]
    assert sorted(pending) == sorted([f"a{i}" for i in range(300)] + [f"b{i}" for i in range(300)])


def test_two_processes_record_each_delivery_once_although_one_is_killed(single_broker: Broker, start: Start) -> None:
    first, second = start(), start()
    for process in (first, second):
        process.stdout.readline()

    deliver(600, "a")
    wait_until(VaultDelivery.objects.exists)
    first.kill()
    deliver(600, "b")
    wait_until(lambda: redis_of(single_broker).xlen(keys.DELIVERIES) == 0)

    recorded = [record.worker_id for record in VaultDelivery.objects.order_by("pk")]
    assert recorded == [f"{name}{i}" for name in "ab" for i in range(600)]


def test_it_resumes_after_a_redis_outage_and_stops_during_one(start: Start) -> None:
    server = ValkeyServer().start()
    broker = Broker(RedisTarget(addresses=(("127.0.0.1", server.port),)))
    process = start(REDIS_URL=server.url)
    process.stdout.readline()
    make_due(broker, 1, "before")
    wait_until(lambda: redis_of(broker).llen(KEYS.pending) == 1)

    server.kill()
    assert any("broker_unavailable" in line for line in iter(process.stderr.readline, ""))
    server.start()
    broker.close()  # its connection may not have noticed
    broker = Broker(RedisTarget(addresses=(("127.0.0.1", server.port),)))
    make_due(broker, 1, "after")
    wait_until(lambda: redis_of(broker).llen(KEYS.pending) == 1)
    server.stop()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)

    assert process.returncode == 0
    broker.close()
