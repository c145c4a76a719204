"""What docs/how-to promises of servers behind proxies, which only `make release-check` installs."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis as redis_py

from tests.docs.blocks import read_titled
from tests.proxies.new_release import make_release
from tests.proxies.proxies import CLIENT, KINDS, read_event, run_proxy
from tests.stack.serving import Serve, Worker
from tests.stack.stack import make_queue
from tests.support.environment import ADMIN_KEY
from tests.support.postgresql import PostgresqlServer, find_programs
from tests.support.servers import free_port
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(900)

SETTINGS = dict(
    line.split("=", 1) for line in read_titled("docs/how-to/behind-a-proxy.md")["server.env"].strip().splitlines()
) | {
    "RUNQY_ALLOWED_HOSTS": "localhost",
    "RUNQY_CSRF_ORIGINS": "",
    "RUNQY_PUBLIC_URL": "",
}


@pytest.fixture
def database() -> Iterator[PostgresqlServer]:
    programs = find_programs()
    assert programs is not None, "PostgreSQL is not installed"
    server = PostgresqlServer(programs).start()
    yield server
    server.stop()


@pytest.fixture
def variables(database: PostgresqlServer, redis: redis_py.Redis, tmp_path: Path) -> dict[str, str]:
    """Return the settings of a server behind a proxy, with a queue whose tasks wait for a file."""
    (tmp_path / "code").mkdir()
    files = make_queue(tmp_path / "code")
    return SETTINGS | {"DATABASE_URL": database.url, "QUEUE_WORKERS_DIR": str(files)}


def start_worker(serve: Serve, url: str, certificate: Path, folder: Path) -> Worker:
    folder.mkdir()
    return Worker(serve, "echo", folder, RUNQY_SERVER_URL=url, SSL_CERT_FILE=str(certificate))


@pytest.mark.parametrize("kind", KINDS)
def test_events_waits_bodies_and_addresses_pass(
    kind: str, variables: dict[str, str], redis: redis_py.Redis, tmp_path: Path
) -> None:
    serve = Serve(tmp_path, "--migrate", **variables).until_ready()
    with run_proxy(kind, tmp_path / "proxy", [serve.port]) as proxy:
        worker = start_worker(serve, proxy.url, proxy.certificate, tmp_path / "worker")
        try:
            wait_until(proxy.ready_workers)
            forged = {"Authorization": "Bearer wrong", "X-Forwarded-For": "203.0.113.9", "X-Real-IP": "203.0.113.9"}
            with proxy.send("GET", "/api/limits", **forged) as response:
                assert response.status == 401
            assert redis.keys("runqy:rate:address:*") == [f"runqy:rate:address:{CLIENT}".encode()]
            with proxy.send("GET", "/admin/login/") as response:
                assert response.status == 200

            held = tmp_path / "until"
            status, body = proxy.ask("POST", "/queue/add", {"queue": "echo", "data": {"until": str(held)}})
            assert status == 200, body
            task_id = body["info"]["id"]
            with proxy.send("GET", f"/queue/{task_id}/events") as events:
                assert read_event(events) == "state"  # the task is held: nothing sent later can push this out
                threading.Timer(70, held.touch).start()
                began_s = time.monotonic()
                status, body = proxy.ask("GET", f"/queue/{task_id}?wait=120")
                assert (status, body["info"]["state"]) == (200, "completed")
                assert time.monotonic() - began_s > 65
                while (name := read_event(events)) == "state":
                    pass
                assert name == "end"

            large = {"queue": "echo", "data": {"padding": "x" * (20 << 20)}}
            wait_until(lambda: proxy.ask("POST", "/queue/add", large)[0] == 200)  # a 503 asks for a repetition
        finally:
            worker.stop()
            serve.end()


@pytest.mark.parametrize("kind", KINDS)
def test_an_upgrade_under_load_fails_no_request(
    kind: str, variables: dict[str, str], database: PostgresqlServer, tmp_path: Path
) -> None:
    steps = read_titled("docs/how-to/zero-downtime-upgrade.md")
    old = Serve(tmp_path, "--migrate", **variables).until_ready()
    new_port = free_port()
    new = make_release(tmp_path / "release")
    (tmp_path / "load.py").write_text(steps["load.py"])
    with run_proxy(kind, tmp_path / "proxy", [old.port, new_port]) as proxy:
        first = start_worker(old, proxy.url, proxy.certificate, tmp_path / "worker")
        env = (
            os.environ
            | variables
            | {
                "RUNQY": proxy.url,
                "KEY": ADMIN_KEY,
                "QUEUE": "echo",
                "SSL_CERT_FILE": str(proxy.certificate),
                "NEW": str(new),
                "RUNQY_HOME": str(tmp_path / "new-home"),
                "FREE_PORT": str(new_port),
                "OLD_PID": str(old.process.pid),
                "WEB_CONCURRENCY": "1",
            }
        )
        load = subprocess.Popen([sys.executable, "load.py"], cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True)
        script = "\n".join(["set -e", steps["migrate"], steps["start"], "echo $! > pid", steps["stop"]])
        upgrade = subprocess.Popen(["bash", "-c", script], cwd=tmp_path, env=env)
        try:
            old.process.wait()  # else it stays a zombie, which `kill -0` finds
            assert upgrade.wait(300) == 0
            second = start_worker(old, proxy.url, proxy.certificate, tmp_path / "new-worker")
            wait_until(lambda: proxy.ready_workers() == 2)
            first.stop()
            wait_until(lambda: proxy.ready_workers() == 1)
            time.sleep(3)  # load on the new release alone
            (tmp_path / "stop").touch()
            report = load.communicate(timeout=120)[0]
            second.stop()
        finally:
            load.kill()
            old.end()
            os.kill(int((tmp_path / "pid").read_text()), 15)

    print(kind, report)
    assert ", 0 failures" in report
    assert int(report.partition(" ")[0]) > 200
    with psycopg.connect(database.url) as connection:
        assert connection.execute("SELECT count(*) FROM of_the_new_release").fetchone() == (0,)
