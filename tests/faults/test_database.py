"""A web process whose database hangs: tasks and registrations continue, the rest is refused soon."""

import os
import random
import socket
import sqlite3
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from uuid import UUID

import pytest
from django.db import connection

from runqy.accounts.identities import generate_key
from runqy.accounts.operations import create_api_key
from runqy.broker import keys
from runqy.broker.broker import Broker
from runqy.core.api_keys import Role
from tests.faults.producers import ENQUEUE, ENQUEUE_BATCH, KeptConnection, Reply, Send
from tests.faults.servers import StartWeb
from tests.support import environment
from tests.support.bad_network import BadNetwork, FaultMode
from tests.support.maintenance import start_maintenance
from tests.support.maintenance_duties import KEYS, put
from tests.support.postgresql import PostgresqlServer, find_programs
from tests.support.processes import get_children, paused
from tests.support.redis_client import redis_of
from tests.support.waiting import wait_until
from tests.support.web import WebProcess
from vaults.access_log import VaultGrant, record_delivery

pytestmark = pytest.mark.fault

Connect = Callable[[WebProcess], KeptConnection]

REGISTER: Send = ("POST", "/worker/register", b'{"queue":"simple"}')
VAULTS: Send = ("GET", "/api/vaults", b"")
CREATE_VAULT: Send = ("POST", "/api/vaults", b'{"name":"other"}')
SAVE_QUEUE: Send = (
    "POST",
    "/api/cli/configs?force=true",
    b'{"name":"simple","priority":1,"deployment":{"git_url":"https://h/r.git","startup_cmd":"python main.py"}}',
)
ADMIN: Send = ("GET", "/admin/", b"")
COOKIE = {"Cookie": "runqy_session=0123456789abcdef0123456789abcdef"}
HANGING = 180
THREADS = {"RUNQY_DJANGO_THREADS": "4"}

SOON_S = 2.5
"""What waits for the database waits for longer than this."""
ROUNDS = 5
BOUND_S = 30.0
"""Clients of what needs the database get a response within this time: what it waits for is bounded."""


@contextmanager
def hanging(web: WebProcess, *sends: Send) -> Iterator[list[Reply]]:
    """Keep requests in progress that hang, the same number of each kind; yield their responses, complete at the end."""
    replies: list[Reply] = []

    def send(request: Send) -> None:
        client = KeptConnection(web.port, timeout_s=BOUND_S)
        replies.append(client.send(*request, **COOKIE))
        client.close()

    threads = [threading.Thread(target=send, args=(sends[i % len(sends)],)) for i in range(HANGING)]
    for thread in threads:
        thread.start()
    yield replies
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def check_refused(replies: list[Reply], codes: set[str]) -> None:
    """Check that requests were refused, as those to repeat; a page of the admin has no code."""
    assert len(replies) == HANGING
    assert {reply.status for reply in replies} == {503}
    assert {reply.code for reply in replies} <= codes
    assert all(reply.headers["retry-after"] for reply in replies)


def check_going_on(client: KeptConnection) -> None:
    """Check that tasks are queued and read, and workers registered, as if nothing was.

    A busy machine may delay a request now and then, but not most.
    """
    took_s: list[list[float]] = []
    for _ in range(ROUNDS):
        replies = [client.send_until_available(*send) for send in (ENQUEUE, ENQUEUE_BATCH, REGISTER)]
        replies.append(client.send_until_available("GET", f"/queue/{replies[0].ids[0]}"))
        replies += [client.send("GET", path) for path in ("/livez", "/readyz")]

        assert [reply.status for reply in replies] == [200] * len(replies)
        assert replies[-1].content["status"] in ("ok", "degraded")
        took_s.append([reply.took_s for reply in replies])
    assert max(map(statistics.median, zip(*took_s, strict=True))) < SOON_S, took_s


WAITS: list[Send] = [("GET", f"/batches/{UUID(int=number)}?wait=60", b"") for number in range(HANGING)]
"""Each reads a batch of its own."""
MANY_WAITERS = {"RUNQY_MAX_WAITERS": str(2 * HANGING), "RUNQY_AUTH_FAILURE_LIMIT": "off"}


def check_unknown_names(client: KeptConnection, key: str, waits: list[Reply]) -> None:
    """Check, until all waits are over, that enqueueing with what a server has to look for goes on.

    `key` was made in another process a moment ago.
    """
    unknown_queue = ("POST", "/queue/add", b'{"queue":"nowhere","data":{}}')
    new, wrong = ({"Authorization": f"Bearer {each}"} for each in (key, generate_key()))
    while len(waits) < HANGING:
        assert client.send_until_available(*unknown_queue, **wrong).code == "unauthorized"
        assert client.send_until_available(*unknown_queue, **new).code == "queue_not_found"
        assert client.send_until_available(*ENQUEUE, **new).status == 200


@contextmanager
def locked_for_readers(database: str) -> Iterator[None]:
    """Hold the locks that a process holds while it recovers SQLite's log, as if it hung."""
    hold = (
        "import fcntl, sys; file = open(f'{sys.argv[1]}-shm', 'r+b'); "
        "fcntl.lockf(file, fcntl.LOCK_EX, 5, 123); print(flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", hold, database]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline()
        try:
            yield
        finally:
            holder.communicate()


def read_status_of_database(client: KeptConnection) -> str:
    """Return what the readiness check finds of the database."""
    checks = client.send("GET", "/readyz?verbose").content["checks"]
    return next(str(check["status"]) for check in checks if check["check"] == "database")


def test_a_database_that_accepts_connections_and_hangs_stops_no_task(start_web: StartWeb, connect: Connect) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=512) as silent:
        url = f"postgresql://runqy:secret@127.0.0.1:{silent.getsockname()[1]}/runqy"
        web = start_web(environment.SERVER.url, started="/livez", DATABASE_URL=url, **THREADS)
        client = connect(web)
        with hanging(web, VAULTS, ADMIN) as replies:
            wait_until(lambda: replies)  # more than can queue: the threads are taken
            check_going_on(client)

    check_refused(replies, {"", "database_unavailable", "server_busy"})


@pytest.mark.skipif(connection.vendor != "sqlite", reason="another database is tested")
def test_a_locked_sqlite_file_stops_no_task(start_web: StartWeb, connect: Connect) -> None:
    web = start_web(environment.SERVER.url, **THREADS)
    client = connect(web)

    with closing(sqlite3.connect(str(connection.settings_dict["NAME"]), isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        with hanging(web, CREATE_VAULT) as replies:
            wait_until(lambda: replies)
            check_going_on(client)
        writer.execute("ROLLBACK")

    check_refused(replies, {"database_unavailable", "server_busy"})
    assert client.send(*CREATE_VAULT).status == 201


@pytest.mark.skipif(connection.vendor != "sqlite", reason="another database is tested")
def test_waits_for_batches_of_a_locked_sqlite_file_delay_no_other_request(
    start_web: StartWeb, connect: Connect
) -> None:
    web = start_web(environment.SERVER.url, **THREADS, **MANY_WAITERS)
    client = connect(web)
    key = create_api_key(name="new", role=Role.CLIENT).plain

    with locked_for_readers(str(connection.settings_dict["NAME"])), hanging(web, *WAITS) as replies:
        check_unknown_names(client, key, replies)

    check_refused(replies, {"database_unavailable"})
    assert client.send(*WAITS[0]).status == 404


def test_a_damaged_sqlite_file_is_named_with_what_to_do(start_web: StartWeb, connect: Connect, tmp_path: Path) -> None:
    file = tmp_path / "damaged.sqlite3"
    file.write_bytes(b"not a database" * 1_000)
    variables = {"DATABASE_URL": f"sqlite:///{file}"}
    client = connect(start_web(environment.SERVER.url, started="/livez", **variables))

    replies = [client.send(*send) for send in (VAULTS, CREATE_VAULT)]
    page = client.send(*ADMIN, **COOKIE)
    command = [sys.executable, "-m", "runqy.manage", "migrate", "--no-input"]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)

    advice = "is damaged: restore a backup (docs/how-to/backup-and-restore.md)."
    for reply in replies:
        assert (reply.status, reply.code) == (503, "database_unavailable")
        assert reply.content["detail"] == f"The database file damaged.sqlite3 {advice}"
    assert page.status == 503
    assert client.send_until_available(*ENQUEUE).status == 200
    assert (done.returncode, done.stderr) == (os.EX_UNAVAILABLE, f"The database file {file} {advice}\n")


@pytest.fixture(scope="module")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresqlServer]:
    """Return a PostgreSQL with the tables."""
    programs = find_programs()
    assert programs is not None
    server = PostgresqlServer(programs).start()
    folder = tmp_path_factory.mktemp("home")
    env = os.environ | {"RUNQY_HOME": str(folder), "DATABASE_URL": server.url}
    command = [sys.executable, "-m", "runqy.manage", "migrate", "--no-input"]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    yield server
    server.stop()


@pytest.mark.postgresql
@pytest.mark.skipif(find_programs() is None, reason="PostgreSQL's programs are not installed")
def test_a_database_that_hangs_stops_no_task_and_is_used_again(
    start_web: StartWeb, connect: Connect, postgresql: PostgresqlServer
) -> None:
    network = BadNetwork(postgresql.port, random.Random(0))
    url = f"postgresql://postgres@127.0.0.1:{network.port}/postgres?statement_timeout=60"  # a check takes less
    web = start_web(environment.SERVER.url, DATABASE_URL=url, **THREADS)
    client = connect(web)
    assert client.send(*SAVE_QUEUE).status in (200, 201)  # another test may have created it
    with ThreadPoolExecutor(4) as pool:  # each thread of the server gets a connection
        assert {reply.status for reply in pool.map(lambda _: connect(web).send(*VAULTS), range(20))} == {200}

    network.mode = FaultMode.SILENT
    with hanging(web, VAULTS, CREATE_VAULT, ADMIN) as replies:
        wait_until(lambda: replies)
        check_going_on(client)
    network.mode = FaultMode.FINE

    check_refused(replies, {"", "database_unavailable", "server_busy"})
    wait_until(lambda: client.send(*VAULTS).status == 200)
    wait_until(lambda: read_status_of_database(client) == "ok")
    network.close()


@pytest.mark.postgresql
@pytest.mark.skipif(find_programs() is None, reason="PostgreSQL's programs are not installed")
def test_waits_for_batches_of_a_stopped_database_delay_no_other_request(
    start_web: StartWeb, connect: Connect, postgresql: PostgresqlServer
) -> None:
    variables = {"DATABASE_URL": postgresql.url} | THREADS | MANY_WAITERS
    web, other = (start_web(environment.SERVER.url, **variables) for _ in range(2))
    client = connect(web)
    assert client.send(*SAVE_QUEUE).status in (200, 201)  # another test may have created it
    key = connect(other).send("POST", "/api/keys", b'{"name":"new","role":"client"}').content["key"]

    with paused(postgresql.pid, *get_children(postgresql.pid)), hanging(web, *WAITS) as replies:
        check_unknown_names(client, key, replies)

    check_refused(replies, {"database_unavailable"})
    wait_until(lambda: client.send(*WAITS[0]).status == 404)


@pytest.mark.postgresql
@pytest.mark.skipif(find_programs() is None, reason="PostgreSQL's programs are not installed")
def test_maintenance_forwards_tasks_while_the_database_hangs_and_records_afterwards(
    single_broker: Broker, postgresql: PostgresqlServer
) -> None:
    network = BadNetwork(postgresql.port, random.Random(0))
    url = f"postgresql://postgres@127.0.0.1:{network.port}/postgres?statement_timeout=2"
    process = start_maintenance(subprocess.DEVNULL, DATABASE_URL=url)
    redis = redis_of(single_broker)
    try:
        deliver("before")
        wait_until(lambda: redis.xlen(keys.DELIVERIES) == 0)

        network.mode = FaultMode.SILENT
        deliver("meanwhile")
        for number in range(3):
            make_due(single_broker, f"t{number}")
            wait_until(lambda number=number: redis.llen(KEYS.pending) > number)
        waiting = redis.xlen(keys.DELIVERIES)
        network.mode = FaultMode.FINE

        wait_until(lambda: redis.xlen(keys.DELIVERIES) == 0)
        assert waiting == 1
    finally:
        process.terminate()
        assert process.wait(60) == 0
        network.close()


def deliver(worker_id: str) -> None:
    record_delivery(worker_id=worker_id, queue="mail", grants=[VaultGrant(vault="v", versions={"A": 1}, state="s")])


def make_due(broker: Broker, task_id: str) -> None:
    put(broker, task_id, process_at_s=broker.now_s() + 1000)
    redis_of(broker).zadd(KEYS.scheduled, {task_id: 1})
