"""Whole maintenance processes: killed, several at once, Redis restarted, the database away."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from django.db import connection, transaction

from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.streams.run_log import MAX_ENTRIES
from runqy.broker.tasks.finish import Completion, complete_all
from runqy.core.environment.connection_urls import RedisTarget
from tasks.models import QueueHour, TaskRun
from tests.support.database import database_variables
from tests.support.links import wait_for_redis
from tests.support.maintenance import start_maintenance
from tests.support.redis_client import redis_of
from tests.support.run_entries import make_entry, split_entry
from tests.support.servers import ValkeyServer
from tests.support.tasks import QUEUE, put, take
from tests.support.waiting import wait_until
from tests.tasks.history.history_status import get_history_status
from tests.tasks.history.stream_status import read_stream_status

Start = Callable[..., "subprocess.Popen[str]"]
KEY = QueueKeys(QUEUE).runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

KILLED_BEFORE_REMOVAL = """
import os, signal, django
django.setup()
from runqy.redis_connection import get_broker
from tasks.history import record
from tasks.duties import RunHistory
record.remove_runs = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
RunHistory().run_tick(get_broker())
"""
"""A tick that is killed when its transaction was committed and Redis still holds the entries."""

KILLED_BEFORE_COMMIT = """
import os, signal, django
django.setup()
from runqy.redis_connection import get_broker
from tasks.history import record
from tasks.duties import RunHistory
record.add_to_rollups = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
RunHistory().run_tick(get_broker())
"""
"""A tick that is killed inside its transaction."""


@pytest.fixture
def start(broker: Broker) -> Iterator[Start]:
    started: list[subprocess.Popen[str]] = []

    def start_one(**changes: str) -> "subprocess.Popen[str]":
        started.append(start_maintenance(**changes))
        started[-1].stdout.readline()
        return started[-1]

    yield start_one
    for process in started:
        process.kill()
        process.communicate()


def run_tasks(broker: Broker, prefix: str, count: int) -> None:
    """Put tasks through a successful attempt each."""
    for start in range(0, count, 100):
        put(broker, *(f"{prefix}{n}" for n in range(start, start + 100)))
        ended = [Completion(taken.lease, taken.message, b"1") for taken in take(broker, 100)]
        broker.run(complete_all(ended, now_ns=broker.now_ns()))


def is_moved(broker: Broker) -> bool:
    return broker.run(read_stream_status(QUEUE)).length == 0


def is_loaded(server: ValkeyServer) -> bool:
    with contextlib.closing(server.client()) as client:
        return not client.info("persistence")["loading"]


def assert_each_once(count: int) -> None:
    assert TaskRun.objects.count() == TaskRun.objects.values("task_id").distinct().count() == count
    assert sum(QueueHour.objects.values_list("completed", flat=True)) == count
    assert get_history_status().recorded == count


@pytest.mark.parametrize("program", [KILLED_BEFORE_COMMIT, KILLED_BEFORE_REMOVAL])
def test_a_tick_that_is_killed_loses_and_repeats_nothing(broker: Broker, start: Start, program: str):
    run_tasks(broker, "t", 100)
    env = os.environ | {"DJANGO_SETTINGS_MODULE": "runqy.settings"} | database_variables()
    killed = subprocess.run([sys.executable, "-c", program], env=env, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert broker.run(read_stream_status(QUEUE)).length == 100

    start()
    wait_until(lambda: is_moved(broker), 90)

    assert_each_once(100)


def test_two_processes_store_each_run_once_although_one_is_killed(broker: Broker, start: Start):
    first, _ = start(), start()

    run_tasks(broker, "a", 500)
    wait_until(TaskRun.objects.exists, 90)
    run_tasks(broker, "b", 500)
    first.kill()
    run_tasks(broker, "c", 500)
    wait_until(lambda: is_moved(broker), 90)

    assert_each_once(1500)


def test_runs_survive_a_restart_of_redis(broker: Broker, start: Start):
    server = ValkeyServer("--appendonly", "yes", "--appendfsync", "always").start()
    own = Broker(RedisTarget(addresses=(("127.0.0.1", server.port),)))
    run_tasks(own, "before", 100)
    server.kill()
    start(REDIS_URL=server.url)
    server.start()
    wait_until(lambda: is_loaded(server), 90)
    wait_for_redis(own)
    run_tasks(own, "after", 100)

    wait_until(lambda: TaskRun.objects.count() == 200, 90)
    wait_until(lambda: is_moved(own), 90)

    assert_each_once(200)
    own.close()
    server.stop()


def test_while_the_database_is_away_redis_stays_bounded_and_drops_are_counted(broker: Broker, start: Start):
    run_tasks(broker, "t", 100)
    ((_, fields),) = redis_of(broker).xrange(KEY, count=1)
    values = split_entry(fields)
    appended = 100
    with transaction.atomic():
        lock_history()
        start()
        while appended < MAX_ENTRIES + 5000:
            pipe = redis_of(broker).pipeline(transaction=False)
            for number in range(appended, appended + 1000):
                pipe.xadd(KEY, make_entry(values | {"run": f"r{number}"}), maxlen=MAX_ENTRIES, approximate=True)
            pipe.execute()
            appended += 1000
        status = broker.run(read_stream_status(QUEUE))
        assert status.length <= MAX_ENTRIES + 100
        assert status.appended == appended

    wait_until(lambda: is_moved(broker) and get_history_status().dropped > 0, 150)

    history = get_history_status()
    assert history.recorded + history.dropped == appended
    assert history.dropped >= 4000
    assert TaskRun.objects.count() + history.counted_only == history.recorded
    assert sum(QueueHour.objects.values_list("dropped", flat=True)) == history.dropped


def lock_history() -> None:
    """Keep other processes from storing runs until the transaction ends."""
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute("UPDATE tasks_runstream SET recorded = 0")
        else:
            cursor.execute("LOCK TABLE tasks_runstream IN EXCLUSIVE MODE")
