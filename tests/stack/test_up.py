"""`runqy up` runs the whole product, ends it without a trace, and survives being killed."""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.stack.stack import Stack, make_queue
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

ASK = """
import sys, urllib.request
_, header, _, body, url = sys.argv[1:]
request = urllib.request.Request(url, body.encode(), dict([header.split(": ", 1)]))
print(urllib.request.urlopen(request).read().decode())
"""
"""What curl does with the line on the screen, down to the Content-Type, for machines that have none."""


@dataclass(kw_only=True)
class Run:
    """What was seen of a stack from one start to its end."""

    screen: str
    results: list[object]
    """The results of all tasks so far, the newest last."""
    command_lines: list[str]
    output: str = ""
    code: int | None = None
    left: list[str] = field(default_factory=list)
    """The processes that outlived it."""
    has_url: bool = True
    """Whether its folder still had its address when it had ended."""


@dataclass(kw_only=True)
class History:
    """A stack that was interrupted, then killed and started over at once; now it runs for the third time."""

    stack: Stack
    secrets: dict[str, str]
    """Each file with a secret, and what the first start wrote into it."""
    reader: tuple[str, int | None]
    """The state that a reader was sent away with, and the exit code that the stack had by then."""
    interrupted: Run
    killed: Run
    last: Run


def begin(stack: Stack, ids: list[str]) -> Run:
    """Start the stack and run one more task."""
    stack.start()
    ids.append(stack.enqueue({"n": len(ids)}))
    results = [stack.read(task_id)["result"] for task_id in ids]
    return Run(screen=stack.output, results=results, command_lines=stack.processes())


def interrupt_with_a_reader(stack: Stack, run: Run) -> tuple[str, int | None]:
    """Stop the stack while a client waits for a task that runs. Returns what the client saw."""
    until = stack.home.parent / "until"
    task_id = stack.enqueue({"until": str(until)})
    seen = []
    reader = threading.Thread(target=lambda: seen.append(stack.read(task_id, wait_s=50)["state"]))
    reader.start()
    wait_until(lambda: stack.read(task_id, wait_s=0)["state"] == "active")
    with redis.Redis.from_url((stack.home / "valkey/url").read_text().strip()) as server:
        wait_until(lambda: server.pubsub_channels("runqy:ended:*"))

    stack.send_signal(signal.SIGINT)
    reader.join()
    code = stack.code
    until.touch()
    run.code = stack.wait()
    run.output = stack.output
    run.left = stack.processes()
    run.has_url = (stack.home / "server_url").exists()
    return seen[0], code


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[History]:
    """Return a stack that ran before, started once for all tests that leave it running."""
    folder = tmp_path_factory.mktemp("stack")
    stack = Stack(folder, QUEUE_WORKERS_DIR=str(make_queue(folder)))
    ids: list[str] = []
    try:
        interrupted = begin(stack, ids)
        secrets = {name: (stack.home / name).read_text().strip() for name in ("api_key", "admin_password")}
        reader = interrupt_with_a_reader(stack, interrupted)

        killed = begin(stack, ids)
        stack.signal(signal.SIGKILL)

        yield History(
            stack=stack,
            secrets=secrets,
            reader=reader,
            interrupted=interrupted,
            killed=killed,
            last=begin(stack, ids),
        )
    finally:
        stack.end()
        wait_until(lambda: not stack.processes(), timeout_s=60)


@pytest.fixture
def running(history: History) -> Stack:
    """Return a running stack; do not change it."""
    return history.stack


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """Return a stack of the test's own, which it starts."""
    stack = Stack(tmp_path, QUEUE_WORKERS_DIR=str(make_queue(tmp_path)))
    yield stack
    stack.end()
    wait_until(lambda: not stack.processes(), timeout_s=60)


def test_tasks_go_through_and_outlive_restarts_and_kills(history):
    runs = (history.interrupted, history.killed, history.last)

    assert [run.results for run in runs] == [[{"n": n} for n in range(count)] for count in (1, 2, 3)]


def test_interrupted_stack_ends_well_and_leaves_no_process(history):
    assert history.interrupted.code == 0
    assert history.interrupted.left == []
    assert not history.interrupted.has_url
    assert history.interrupted.output.endswith("Stopped.\n")


def test_waiting_reads_end_before_the_worker_has_stopped(history):
    assert history.reader == ("active", None)
    stopping = "Stopping: worker, maintenance, web server, Valkey; running tasks may finish"
    assert stopping in history.interrupted.output


def test_secrets_are_shown_once_and_kept_private(history):
    home, secrets = history.stack.home, history.secrets

    assert all(secret in history.interrupted.screen for secret in secrets.values())
    assert not any(secret in history.killed.screen for secret in secrets.values())
    assert all((home / name).stat().st_mode & 0o777 == 0o600 for name in secrets)
    assert home.stat().st_mode & 0o777 == 0o700
    for line in history.killed.command_lines:
        assert not any(secret in line for secret in secrets.values())


def test_no_module_of_the_working_directory_is_imported(running):
    assert (running.folder / "runqy").is_dir()
    assert not (running.folder / "imported").exists()


def test_workers_get_their_own_redis_user_and_gos_workers_a_password(running):
    key = (running.home / "worker_api_key").read_text().strip()

    entry = running.ask("/worker/register", b'{"queue":"echo"}', key=key)["redis"]

    host, port = entry["addr"].split(":")
    url = (running.home / "valkey/url").read_text().strip()
    with redis.Redis.from_url(url) as server, redis.Redis(host, int(port), password=entry["password"]) as go_worker:
        users = {client["user"] for client in server.client_list()}
        assert [user[:8] for user in users - {"runqy", "default"}] == ["runqy-w-"]
        assert entry["username"] == ""
        assert go_worker.llen("asynq:{echo}:pending") == 0
        with pytest.raises(redis.exceptions.NoPermissionError):
            go_worker.hgetall("runqy:config:{config}:documents")


GO_QUEUE = {
    "name": "gojobs",
    "priority": 1,
    "deployment": {"git_url": "https://github.com/example/repo.git", "startup_cmd": "python main.py"},
}


class GoConnection:
    """A connection to Redis as Go's worker opens it: to the address in `addr`, with AUTH and a password alone."""

    def __init__(self, entry: dict[str, Any]) -> None:
        host, port = entry["addr"].split(":")
        self._socket = socket.create_connection((host, int(port)), timeout=60)
        self._replies = self._socket.makefile("rb")
        assert self("AUTH", entry["password"]) == b"OK"
        assert self("SELECT", entry["db"]) == b"OK"

    def __call__(self, *words: object) -> Any:
        """Send a command and return its reply. Raise PermissionError for an error."""
        parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        encoded = b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)
        self._socket.sendall(b"*%d\r\n%b" % (len(parts), encoded))
        return self._read()

    def _read(self) -> Any:
        kind, rest = (line := self._replies.readline())[:1], line[1:-2]
        if kind == b"-":
            raise PermissionError(rest.decode())
        if kind == b"$":
            return None if rest == b"-1" else self._replies.read(int(rest) + 2)[:-2]
        if kind == b"*":
            return [self._read() for _ in range(int(rest))]
        return int(rest) if kind == b":" else rest

    def close(self) -> None:
        self._replies.close()
        self._socket.close()


def test_gos_workers_join_with_nothing_but_the_url_a_key_and_a_queue(running):
    running.ask("/api/cli/configs?force=true", json.dumps(GO_QUEUE).encode())
    key = running.manage(
        "create_api_key", "go", "--role", "worker", "--queue", "gojobs", "--allow-shared-redis"
    ).split()[-1]
    task_id = running.ask("/queue/add", b'{"queue":"gojobs","data":{"n":1}}')["info"]["id"]

    registered = running.ask(
        "/worker/register", b'{"queue":"gojobs","hostname":"vm","os":"linux","version":"dev"}', key=key
    )
    redis_of_go = GoConnection(registered["redis"])
    (queue,) = [sub["name"] for sub in registered["sub_queues"]]
    prefix, now = f"asynq:{{{queue}}}:", int(time.time())

    redis_of_go("ZADD", "asynq:workers", now, "vm:1")
    beat = ("worker_id", "vm:1", "queues", f"map[{queue}:1]", "status", "running", "healthy", 1)
    redis_of_go("HSET", "asynq:workers:vm:1", *beat, "started_at", now, "last_beat", now, "concurrency", 1)
    redis_of_go("EXPIRE", "asynq:workers:vm:1", 600)  # Go's worker: 30 s, with a heartbeat every few seconds
    assert redis_of_go("RPOP", f"{prefix}pending") == task_id.encode()
    redis_of_go("LPUSH", f"{prefix}active", task_id)
    assert b'"n":1' in redis_of_go("HGET", f"{prefix}t:{task_id}", "msg")
    redis_of_go("HSET", f"{prefix}t:{task_id}", "state", "completed", "result", b'{"ok":true}')
    redis_of_go("LREM", f"{prefix}active", 1, task_id)
    redis_of_go("ZADD", f"{prefix}completed", now + 3600, task_id)
    redis_of_go("EXPIRE", f"{prefix}t:{task_id}", 3600)

    assert (running.read(task_id)["state"], running.read(task_id)["result"]) == ("completed", {"ok": True})
    assert "vm:1" in [worker["worker_id"] for worker in running.ask("/workers")["workers"]]
    assert registered["redis"]["username"] == ""
    # What docs/reference/redis-users.md says of a key that is limited to queues.
    assert redis_of_go("LLEN", "asynq:{echo}:pending") == 0
    with pytest.raises(PermissionError, match="NOPERM"):
        redis_of_go("HGETALL", "runqy:config:{config}:documents")
    redis_of_go.close()


def test_management_commands_use_the_running_stack(running):
    key = running.manage("create_api_key", "tool", "--role", "client").split()[-1]

    assert running.ask("/queue/add", b'{"queue":"echo","data":{}}', key=key)["info"]["queue"] == "echo"
    assert "not published" not in running.manage("vault_status")


def test_command_line_finds_address_and_key_in_the_folder(running):
    env = {"PATH": os.environ["PATH"], "RUNQY_HOME": str(running.home)}

    command = [sys.executable, "-m", "runqy.cli", "queue", "list"]
    listed = subprocess.run(command, env=env, capture_output=True, text=True, check=True)

    assert "echo\t" in listed.stdout


def test_printed_command_works_when_pasted(running):
    line = next(line for line in running.output.splitlines() if "/queue/add" in line)

    if not shutil.which("curl"):
        line = f'curl() {{ {sys.executable} -c {shlex.quote(ASK)} "$@"; }}\n{line}'
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True)

    printed = done.stdout.replace(" ", "")
    assert '"queue":"echo"' in printed
    assert '"state":"completed"' in printed


def test_second_instance_on_a_folder_is_refused(running):
    folder = running.home.parent
    second = Stack(folder, output="second", QUEUE_WORKERS_DIR=str(folder / "files"))

    second.launch()

    assert second.wait() == 1
    assert re.match(r"runqy up: process \d+ is already running here: it holds ", second.output)
    assert second.output.count("\n") == 1


def test_stack_outlives_its_only_queue_and_serves_one_made_later_until_it_is_terminated(stack):
    stack.start()
    config = next(one for one in stack.ask("/api/cli/configs")["queues"] if one["name"] == "echo")
    repository = config["deployment"]["git_url"]

    stack.ask("/api/cli/configs/echo", method="DELETE")
    wait_until(lambda: not stack.ask("/workers")["workers"], timeout_s=120)
    later = {"name": "later", "priority": 1, "deployment": {"git_url": repository, "startup_cmd": "python main.py"}}
    stack.ask("/api/cli/configs", json.dumps(later).encode())
    task_id = stack.ask("/queue/add", b'{"queue":"later","data":{"n":1}}')["info"]["id"]
    wait_until(lambda: stack.read(task_id)["state"] == "completed", timeout_s=120)

    assert stack.code is None
    assert "restarting" not in stack.output
    assert stack.signal(signal.SIGTERM) == 0


@pytest.fixture(scope="module")
def unready(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Return a stack that was started with queues that cannot get ready, and one that can; a test may kill it."""
    folder = tmp_path_factory.mktemp("unready")
    stack, files = Stack(folder, QUEUE_WORKERS_DIR=str(make_queue(folder))), folder / "files"
    deployment = "deployment: {git_url: '%s', startup_cmd: python main.py, vaults: [%s]}\n"
    for name, values in {
        "secretive": ("https://example.com/x.git", "absent"),
        "gone": ("file:///nowhere.git", ""),
    }.items():
        (files / f"{name}.yaml").write_text(f"queues:\n  {name}:\n    priority: 1\n    {deployment % values}")

    try:
        yield stack.start()
    finally:
        stack.end()
        wait_until(lambda: not stack.processes(), timeout_s=60)


def test_queues_that_cannot_get_ready_are_reported_at_once_with_the_reason(unready):
    progress, _, overview = unready.output.partition("runqy is running")

    assert re.search(r"^  secretive: not registered: .*absent", progress, re.M)
    assert re.search(r"^  gone: start failed: .*nowhere", progress, re.M)
    assert "  echo: ready" in progress
    assert re.search(r"^secretive: .*absent", overview, re.M)


def test_killed_stack_leaves_nothing_behind(unready):
    assert len(unready.processes()) > 4

    unready.signal(signal.SIGKILL)

    wait_until(lambda: not unready.processes(), timeout_s=60)


def test_busy_port_is_a_one_line_error(stack):
    with socket.create_server(("127.0.0.1", stack.port)):
        stack.launch()

        assert stack.wait() == 1
    assert stack.output == (
        f"runqy up: port {stack.port} cannot be used: address already in use. Set PORT to another one.\n"
    )


def test_invalid_queue_file_is_an_error_with_its_line(stack):
    path = stack.home.parent / "files/broken.yaml"
    path.write_text("queues:\n  echo2:\n    priority: 1\n    deploiment: {}\n")

    stack.launch()

    assert stack.wait() == 1
    assert stack.output.startswith("runqy up: the queue files have errors.\n")
    assert f"{path}:4: queues.echo2.deploiment: Unknown field; did you mean `deployment`?" in stack.output
    assert "Traceback" not in stack.output


def test_missing_git_is_a_one_line_error(tmp_path):
    (tmp_path / "bin").mkdir()
    stack = Stack(tmp_path, PATH=str(tmp_path / "bin"))

    stack.launch()

    assert stack.wait() == 1
    assert stack.output == "runqy up: git is not installed; the worker needs it to deploy code.\n"


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("PORT", "http", "PORT: 'http' is not a whole number from 1 to 65535.\n"),
        ("RUNQY_HTTPS", "flase", "RUNQY_HTTPS: 'flase' is neither true nor false.\n"),
        ("RUNQY_HOME", "/dev/null", "RUNQY_HOME: /dev/null cannot be used: File exists.\n"),
        ("QUEUE_WORKERS_DIR", "/nowhere", "runqy up: QUEUE_WORKERS_DIR is not a folder: /nowhere\n"),
    ],
)
def test_invalid_setting_is_a_one_line_error(tmp_path, name, value, sentence):
    stack = Stack(tmp_path, **{name: value})

    stack.launch()

    assert stack.wait() == 1
    assert stack.output == sentence
