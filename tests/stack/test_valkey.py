"""The embedded Valkey is private, keeps its data, and is alone on its folder."""

import os
import re
import signal
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis

from runqy.stack.locks import LockHeld
from runqy.stack.processes import Process
from runqy.stack.valkey import WORKER_RULE, configure_valkey
from tests.support.waiting import wait_until

OPERATIONS = Path(__file__).parents[2] / "docs/reference/redis-users.md"


@pytest.fixture
def started(tmp_path):
    processes = []

    def start():
        valkey = configure_valkey(tmp_path, tmp_path / "valkey.log")
        processes.append(Process(valkey.spec))
        wait_until(valkey.is_ready)
        return valkey, processes[-1]

    yield start
    for process in processes:
        process.end()


def client_of(valkey, **options):
    ((host, port),) = valkey.target.addresses
    return redis.Redis(host=host, port=port, **options)


def test_connections_without_the_password_are_refused(started):
    valkey, _ = started()

    with client_of(valkey) as client, pytest.raises(redis.AuthenticationError):
        client.ping()


def test_it_listens_on_loopback_keeps_an_aof_and_evicts_nothing(started):
    valkey, _ = started()

    with client_of(valkey, username=valkey.target.username, password=valkey.target.password) as client:
        assert client.config_get("bind")["bind"] == "127.0.0.1"
        assert client.config_get("appendonly")["appendonly"] == "yes"
        assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"


def test_files_with_the_password_are_private(started, tmp_path):
    valkey, process = started()

    for path in (valkey.url_file, valkey.worker_url_file, tmp_path / "valkey/valkey.conf", tmp_path / "redis_password"):
        assert path.stat().st_mode & 0o777 == 0o600, path
    with open(f"/proc/{process.pid}/cmdline") as command_line:
        assert valkey.target.password not in command_line.read()


def test_go_workers_authenticate_by_password_and_cannot_write_the_configuration(started):
    valkey, _ = started()
    url = urlsplit(valkey.worker_url_file.read_text().strip())

    with client_of(valkey, password=url.password) as worker:
        assert not url.username
        assert worker.rpush("asynq:{mail}:pending", "t1") == 1
        assert worker.eval("return redis.call('LLEN', KEYS[1])", 1, "asynq:{mail}:pending") == 1
        for forbidden in (
            ("HSET", "runqy:config:{config}:documents", "a", "b"),
            ("HGETALL", "runqy:config:{config}:documents"),
            ("CONFIG", "GET", "*"),
            ("ACL", "USERS"),
            ("FLUSHALL",),
            ("SCRIPT", "FLUSH"),
            ("FUNCTION", "FLUSH"),
            ("SCAN", "0"),
        ):
            with pytest.raises(redis.exceptions.NoPermissionError):
                worker.execute_command(*forbidden)


def test_acl_of_workers_matches_the_documentation():
    documented = re.search(r"^ACL SETUSER worker on >PASSWORD (.*)$", OPERATIONS.read_text(), re.MULTILINE)

    assert documented is not None
    assert documented.group(1) == WORKER_RULE


def test_data_outlives_a_kill(started):
    valkey, process = started()
    with client_of(valkey, username=valkey.target.username, password=valkey.target.password) as client:
        client.set("kept", "yes")
        client.execute_command("WAITAOF", 1, 0, 60_000)
    os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: process.poll() is not None)

    valkey, _ = started()

    with client_of(valkey, username=valkey.target.username, password=valkey.target.password) as client:
        assert client.get("kept") == b"yes"


def test_second_server_on_the_folder_is_refused(started):
    started()

    with pytest.raises(LockHeld):
        started()
