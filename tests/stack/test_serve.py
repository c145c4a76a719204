"""`runqy serve` runs web and maintenance with the Redis that is configured."""

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from tests.stack.serving import Serve
from tests.support import environment
from tests.support.processes import is_alive, paused
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]


def test_missing_redis_is_an_error_that_names_the_setting(serve):
    server = serve(REDIS_URL="")

    assert server.process.wait(timeout=60) == 1
    assert server.output == (
        "runqy serve: no Redis is configured: set REDIS_URL, or use `runqy up`, which starts one.\n"
    )


def test_unapplied_migrations_are_a_one_line_error(serve):
    server = serve()

    assert server.process.wait(timeout=60) == 1
    assert "the database has unapplied migrations; --migrate applies them." in server.output


@pytest.fixture(scope="module")
def running(redis_server: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Return a server that was started with a good queue file and a broken one, without API keys."""
    folder = tmp_path_factory.mktemp("serve")
    files = folder / "files"
    files.mkdir()
    (files / "good.yaml").write_text(
        "queues:\n  mail:\n    priority: 1\n"
        "    deployment: {git_url: 'https://example.com/mail.git', startup_cmd: python main.py}\n"
    )
    (files / "broken.yaml").write_text("queues: [\n")
    with environment.SERVER.client() as redis:
        redis.flushall()
    no_keys = {"RUNQY_API_KEY": "", "RUNQY_WORKER_API_KEY": "", "RUNQY_CLIENT_API_KEY": ""}
    server = Serve(folder, "--migrate", QUEUE_WORKERS_DIR=str(files), RUNQY_SECRET_KEY="a-short-secret", **no_keys)
    try:
        yield server.until_ready()
    finally:
        server.end()


def test_queue_files_are_loaded_and_a_broken_one_does_not_stop_it(running):
    assert running.responds()
    assert "added: mail" in running.output
    assert "not all queue files were loaded" in running.output
    assert "broken.yaml:" in running.output


def test_no_module_of_the_working_directory_is_imported(running):
    assert running.responds()
    assert not (running.folder / "imported").exists()


def test_missing_api_keys_are_reported_with_how_to_create_one(running):
    assert running.output.count("There is no API key: all requests of clients and workers are refused.") == 1
    assert "runqy manage create_api_key NAME --role admin" in running.output


def test_short_secret_key_is_warned_of(running):
    assert "secret_key_too_short" in running.output
    assert "a-short-secret" not in running.output


def test_killed_web_server_is_restarted(running):
    os.kill(running.pid_of("gunicorn"), signal.SIGKILL)

    wait_until(lambda: "the web server was killed by SIGKILL; restarting in" in running.output)
    wait_until(running.responds, timeout_s=60)


def test_stop_ends_waiting_reads_first_and_then_all_processes(serve, redis):
    server = serve("--migrate").until_ready()
    assert "no API key" not in server.output
    assert "too_short" not in server.output
    pids = [server.pid_of("gunicorn"), server.pid_of("maintenance")]
    redis.hset("asynq:t:waited-for", "queue", "mail")
    redis.hset("asynq:{mail}:t:waited-for", mapping={"msg": b"", "state": "pending"})
    redis.lpush("asynq:{mail}:pending", "waited-for")
    statuses = []
    reader = threading.Thread(target=lambda: statuses.append(server.request("GET", "/queue/waited-for?wait=50")[0]))
    reader.start()
    wait_until(lambda: redis.pubsub_channels("runqy:ended:*"))

    with paused(pids[1]):  # it is stopped first, and is killed if it takes long
        server.process.terminate()
        reader.join(timeout=60)
        is_running = server.process.poll() is None and is_alive(pids[1])
    code = server.end()

    assert (statuses, is_running) == ([202], True)
    assert code == 0
    wait_until(lambda: not any(map(is_alive, pids)))


@pytest.mark.parametrize("option", [(), ("--migrate",)])
def test_unavailable_database_is_a_one_line_error(serve, option):
    server = serve(*option, DATABASE_URL="postgresql://runqy:sesame@127.0.0.1:1/runqy")

    assert server.process.wait(timeout=60) == 1
    assert "The database cannot be used: " in server.output
    assert "unapplied migrations" not in server.output
    assert "Traceback" not in server.output
    assert "sesame" not in server.output
