"""While PostgreSQL is stopped or silent, queues and tasks are administered, and the audit is complete afterwards."""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
import redis as redis_py

from runqy.broker import keys
from tests.faults.producers import KeptConnection, Reply
from tests.support.bad_network import BadNetwork, FaultMode
from tests.support.maintenance import start_maintenance
from tests.support.postgresql import PostgresqlServer, find_programs
from tests.support.servers import ValkeyServer
from tests.support.waiting import wait_until
from tests.support.web import WebProcess

pytestmark = [
    pytest.mark.fault,
    pytest.mark.postgresql,
    pytest.mark.skipif(find_programs() is None, reason="PostgreSQL's programs are not installed"),
]

CONFIG = {"name": "mail", "priority": 5, "deployment": {"git_url": "https://h/r.git", "startup_cmd": "python main.py"}}
QUEUE = "/api/cli/queues/mail"
CONFIRMED_FOR_S = 10
"""The lowest that there may be."""
SOON_S = 25.0
"""Less than half of what a request takes at least that waits for the database."""
BACK_S = 60.0


@dataclass(slots=True, kw_only=True)
class Instance:
    """A server with a Redis and a PostgreSQL of its own; maintenance runs when a test starts it."""

    postgresql: PostgresqlServer
    network: BadNetwork
    """On the way to PostgreSQL."""
    redis: redis_py.Redis
    web: WebProcess
    variables: dict[str, str]

    def add_task(self, client: KeptConnection) -> str:
        """Add a task that waits, and return its id."""
        body = json.dumps({"queue": "mail", "data": {}, "delay": "1h"}).encode()
        (task_id,) = client.send("POST", "/queue/add", body).ids
        return task_id

    def records(self, after: int) -> list[tuple[str, str, bool]]:
        """Return the records above a number, in their order: action, object, and whether they came late."""
        query = "SELECT action, object_name, recorded_at > at FROM audit_auditrecord WHERE number > %s ORDER BY number"
        with psycopg.connect(self.postgresql.url) as connection:
            return [(action, name, bool(late)) for action, name, late in connection.execute(query, [after])]

    def last_number(self) -> int:
        """Return the number of the last record."""
        with psycopg.connect(self.postgresql.url) as connection:
            row = connection.execute("SELECT coalesce(max(number), 0) FROM audit_auditrecord").fetchone()
        assert row is not None
        return int(row[0])


def manage(variables: dict[str, str], *command: str) -> None:
    """Run a management command."""
    arguments = [sys.executable, "-m", "runqy.manage", *command]
    done = subprocess.run(arguments, env=os.environ | variables, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """Return a server that has one queue."""
    programs = find_programs()
    assert programs is not None
    folder = tmp_path_factory.mktemp("instance")
    postgresql, valkey = PostgresqlServer(programs).start(), ValkeyServer().start()
    network = BadNetwork(postgresql.port, random.Random(0))
    url = f"postgresql://postgres@127.0.0.1:{network.port}/postgres?connect_timeout=60&statement_timeout=60"
    variables = {
        "RUNQY_HOME": str(folder / "home"),
        "DATABASE_URL": url,
        "REDIS_URL": valkey.url,
        "RUNQY_WORKER_REDIS_URL": "redis://:of-workers@127.0.0.1",
        "RUNQY_DJANGO_THREADS": "4",
        "TESTS_CONFIRMED_FOR_S": str(CONFIRMED_FOR_S),
    }
    manage(variables, "migrate", "--no-input")
    web = WebProcess(folder, started="/livez", **variables)
    client = KeptConnection(web.port)
    assert client.send("POST", "/api/cli/configs", json.dumps(CONFIG).encode()).status == 201
    with valkey.client() as redis:
        yield Instance(postgresql=postgresql, network=network, redis=redis, web=web, variables=variables)
    client.close()
    web.kill()
    network.close()
    postgresql.stop()
    valkey.stop()


@pytest.fixture
def start(instance: Instance, tmp_path: Path) -> Iterator[Callable[[], "subprocess.Popen[str]"]]:
    """Return what starts maintenance."""
    processes: list[subprocess.Popen[str]] = []

    def start_one() -> "subprocess.Popen[str]":
        with (tmp_path / f"maintenance{len(processes)}").open("wb") as log:
            processes.append(start_maintenance(log, **instance.variables))
        return processes[-1]

    yield start_one
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture
def client(instance: Instance) -> Iterator[KeptConnection]:
    """Return a client of the server, in which no records of other tests wait."""
    instance.redis.delete(keys.AUDIT_STREAM)
    client = KeptConnection(instance.web.port)
    yield client
    client.close()


class Outage:
    """PostgreSQL is stopped, or accepts connections without responding, from `begin` to `end`."""

    def __init__(self, instance: Instance, *, is_silent: bool) -> None:
        self._instance, self._is_silent, self._has_begun = instance, is_silent, False

    def begin(self) -> None:
        self._has_begun = True
        if self._is_silent:
            self._instance.network.mode = FaultMode.SILENT
        else:
            self._instance.postgresql.halt()

    def end(self) -> None:
        if self._has_begun and not self._is_silent:
            self._instance.postgresql.resume()
        self._instance.network.mode = FaultMode.FINE
        self._has_begun = False


@pytest.fixture(params=["stopped", "silent"])
def outage(request: pytest.FixtureRequest, instance: Instance) -> Iterator[Outage]:
    """Return an outage, which is over when the test ends."""
    outage = Outage(instance, is_silent=request.param == "silent")
    yield outage
    outage.end()


def test_actions_work_without_the_database_and_are_recorded_once_it_is_back(
    outage: Outage, instance: Instance, client: KeptConnection, start: Callable[[], object]
) -> None:
    tasks = [instance.add_task(client) for _ in range(3)]
    before = instance.last_number()
    outage.begin()

    sends = [
        ("DELETE", f"/api/cli/tasks/{tasks[0]}", "task.canceled", tasks[0]),
        ("POST", f"/api/tasks/{tasks[1]}/cancel", "task.canceled", tasks[1]),
        ("POST", f"{QUEUE}/tasks/{tasks[2]}/run", "task.run", tasks[2]),
        ("POST", f"{QUEUE}/tasks/{tasks[2]}/archive", "task.archived", tasks[2]),
        ("POST", f"{QUEUE}/tasks/run?state=archived", "tasks.run", "mail"),
        ("POST", f"{QUEUE}/tasks/archive?state=pending", "tasks.archived", "mail"),
        ("DELETE", f"{QUEUE}/tasks/{tasks[0]}", "task.deleted", tasks[0]),
        ("POST", f"{QUEUE}/tasks/delete?state=archived", "tasks.deleted", "mail"),
        ("POST", f"{QUEUE}/pause", "queue.paused", "mail"),
        ("POST", "/api/queues/mail/unpause", "queue.unpaused", "mail"),
        ("POST", "/api/queues/mail/pause", "queue.paused", "mail"),
        ("POST", f"{QUEUE}/unpause", "queue.unpaused", "mail"),
    ]
    replies = [client.send(method, path) for method, path, _, _ in sends]

    assert [reply.status for reply in replies] == [200] * len(sends)
    assert_soon(replies)
    assert client.send("POST", "/worker/register", b'{"queue":"mail"}').status == 200
    outage.end()
    start()
    wait_until(lambda: instance.redis.xlen(keys.AUDIT_STREAM) == 0, BACK_S)
    assert instance.records(before) == [(action, name, True) for _, _, action, name in sends]


def assert_soon(replies: list[Reply]) -> None:
    """Check that none took long."""
    slowest_s = max(reply.took_s for reply in replies)
    assert slowest_s < SOON_S, f"the slowest took {slowest_s:.1f} s"


@pytest.mark.parametrize("outage", ["stopped"], indirect=True)
def test_a_redeployment_without_the_database_is_refused_and_works_again_when_it_is_back(
    outage: Outage, instance: Instance, client: KeptConnection
) -> None:
    before = instance.redis.hget(keys.QUEUE_REVISIONS, "mail")
    outage.begin()

    refused = client.send("POST", f"{QUEUE}/redeploy")

    assert (refused.status, refused.code) == (503, "database_unavailable")
    assert refused.headers["retry-after"]
    assert instance.redis.hget(keys.QUEUE_REVISIONS, "mail") == before
    outage.end()
    wait_until(lambda: client.send("POST", f"{QUEUE}/redeploy").status == 200, BACK_S)
    assert instance.redis.hget(keys.QUEUE_REVISIONS, "mail") != before


@pytest.mark.parametrize("outage", ["silent"], indirect=True)
def test_actions_work_while_other_requests_hang_beyond_the_limit_of_confirmation(
    outage: Outage, instance: Instance, client: KeptConnection
) -> None:
    outage.begin()
    hanging = [instance.web.connect(_HANGING) for _ in range(40)]

    began_s, replies = time.monotonic(), list[Reply]()
    while time.monotonic() < began_s + CONFIRMED_FOR_S + 1:  # longer than without a confirmation by Redis
        replies += [client.send_until_available("POST", f"{QUEUE}/{verb}") for verb in ("pause", "unpause")]

    assert {reply.status for reply in replies} == {200}
    assert_soon(replies)
    for one in hanging:
        one.close()


_HANGING = "GET /admin/ HTTP/1.1\r\nHost: localhost\r\nCookie: runqy_session=0123456789abcdef0123456789abcdef\r\n\r\n"


def test_killed_maintenance_records_each_change_once_and_in_order(
    instance: Instance, client: KeptConnection, start: Callable[[], "subprocess.Popen[str]"]
) -> None:
    before = instance.last_number()
    verbs = ["pause", "unpause"] * 30
    assert {client.send("POST", f"{QUEUE}/{verb}").status for verb in verbs} == {200}

    with psycopg.connect(instance.postgresql.url) as holder:  # it can append nothing
        holder.execute("LOCK audit_auditrecord IN SHARE MODE")
        process = start()
        wait_until(lambda: holder.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchone(), BACK_S)
        process.kill()
        process.wait()
    assert instance.records(before) == []
    instance.redis.client_pause(300_000, all=False)  # it can commit, and not delete
    process = start()
    wait_until(lambda: instance.last_number() > before, BACK_S)
    process.kill()
    process.wait()
    instance.redis.client_unpause()
    assert instance.redis.xlen(keys.AUDIT_STREAM) == len(verbs)
    start()
    wait_until(lambda: instance.redis.xlen(keys.AUDIT_STREAM) == 0, BACK_S)

    assert [action for action, _, _ in instance.records(before)] == [f"queue.{verb}d" for verb in verbs]
