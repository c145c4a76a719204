"""`runqy serve` runs web and maintenance with the Redis that is configured."""

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from tests.local.conftest import is_alive, wait_until
from tests.local.serving import Serve
from tests.support import environment

pytestmark = pytest.mark.timeout(200)


@pytest.fixture
def serve(tmp_path):
    started = []

    def start(*options, **variables):
        started.append(Serve(tmp_path, *options, **variables))
        return started[-1]

    yield start
    for one in started:
        one.end()


def test_without_redis_it_says_what_to_set(serve):
    server = serve(REDIS_URL="")

    assert server.process.wait(timeout=60) == 1
    assert server.output == (
        "runqy serve: no Redis is configured: set REDIS_URL, or try `runqy up`, which brings its own.\n"
    )


def test_database_that_lacks_migrations_is_a_sentence(serve):
    server = serve()

    assert server.process.wait(timeout=60) == 1
    assert "the database is not up to date; --migrate applies what is missing." in server.output


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Return a server that was started with a good queue file and a broken one."""
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
    server = Serve(folder, "--migrate", QUEUE_WORKERS_DIR=str(files))
    try:
        yield server.until_ready()
    finally:
        server.end()


def test_queue_files_are_loaded_and_a_broken_one_does_not_stop_it(running):
    assert running.answers()
    assert "added: mail" in running.output
    assert "not all queue files were loaded" in running.output
    assert "broken.yaml:" in running.output


def test_web_server_that_is_killed_comes_back(running):
    os.kill(running.pid_of("web"), signal.SIGKILL)

    wait_until(lambda: "the web server was ended by SIGKILL; it is started again" in running.output)
    wait_until(running.answers, timeout_s=60)


def test_it_ends_with_all_its_processes_and_sends_waiting_readers_away_first(serve, redis):
    server = serve("--migrate").until_ready()
    pids = [server.pid_of("web"), server.pid_of("maintenance")]
    redis.hset("asynq:t:waited-for", "queue", "mail")
    redis.hset("asynq:{mail}:t:waited-for", mapping={"msg": b"", "state": "pending"})
    redis.lpush("asynq:{mail}:pending", "waited-for")
    answers = []

    def read():
        status, _ = server.request("GET", "/queue/waited-for?wait=50")
        answers.append((status, server.process.poll()))

    reader = threading.Thread(target=read)
    reader.start()
    wait_until(lambda: redis.pubsub_channels("runqy:ended:*"))

    code = server.end()
    reader.join(timeout=50)

    assert answers == [(202, None)]
    assert code == 0
    wait_until(lambda: not any(map(is_alive, pids)))


@pytest.mark.parametrize("option", [(), ("--migrate",)])
def test_database_that_is_away_is_a_sentence(serve, option):
    server = serve(*option, DATABASE_URL="postgresql://runqy:sesame@127.0.0.1:1/runqy")

    assert server.process.wait(timeout=60) == 1
    assert "The database cannot be used: " in server.output
    assert "not up to date" not in server.output
    assert "Traceback" not in server.output
    assert "sesame" not in server.output
