"""`runqy up` runs the whole product, ends it without a trace, and survives being killed."""

import json
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
import redis

from tests.local.conftest import wait_until
from tests.local.stack import Stack, make_queue

pytestmark = pytest.mark.timeout(400)

ASK = """
import sys, urllib.request
_, header, _, body, url = sys.argv[1:]
request = urllib.request.Request(url, body.encode(), dict([header.split(": ", 1)]))
print(urllib.request.urlopen(request).read().decode())
"""
"""What curl does with the line on the screen, down to the Content-Type, for machines that have none."""


@pytest.fixture
def stack(tmp_path):
    stack = Stack(tmp_path, QUEUE_WORKERS_DIR=str(make_queue(tmp_path)))
    yield stack
    stack.end()
    wait_until(lambda: not stack.processes(), timeout_s=60)


def test_task_goes_through_and_everything_outlives_restarts_and_kills(stack):
    stack.start()
    first = stack.enqueue({"n": 1})
    assert stack.read(first)["result"] == {"n": 1}

    assert stack.signal(signal.SIGINT) == 0
    assert stack.processes() == []

    stack.start()
    assert stack.read(first)["result"] == {"n": 1}
    second = stack.enqueue({"n": 2})
    assert stack.read(second)["state"] == "completed"

    stack.signal(signal.SIGKILL)
    stack.start()
    assert stack.read(second)["result"] == {"n": 2}
    third = stack.enqueue({"n": 3})
    assert stack.read(third)["result"] == {"n": 3}
    assert stack.signal(signal.SIGTERM) == 0


def test_readers_are_sent_away_before_the_worker_has_stopped(stack):
    stack.start()
    task_id = stack.enqueue({"sleep": 8})
    states = []
    reader = threading.Thread(target=lambda: states.append((stack.read(task_id, wait_s=50)["state"], stack.code)))
    reader.start()
    wait_until(lambda: '"active"' in json.dumps(stack.read(task_id, wait_s=0)))
    time.sleep(0.5)  # the reader is on its way

    stack.signal(signal.SIGINT)
    reader.join()

    assert states == [("active", None)]
    assert "Stopping: worker, maintenance, web server, Valkey; running tasks may end" in stack.output
    assert stack.output.endswith("Stopped.\n")


def test_workers_get_a_redis_user_of_their_own_and_gos_a_password_of_theirs(stack):
    stack.start()
    key = (stack.home / "worker_api_key").read_text().strip()

    entry = stack.ask("/worker/register", b'{"queue":"echo"}', key=key)["redis"]

    host, port = entry["addr"].split(":")
    url = (stack.home / "valkey/url").read_text().strip()
    with redis.Redis.from_url(url) as server, redis.Redis(host, int(port), password=entry["password"]) as go_worker:
        users = {client["user"] for client in server.client_list()}
        assert [user[:8] for user in users - {"runqy", "default"}] == ["runqy-w-"]
        assert entry["username"] == ""
        assert go_worker.llen("asynq:{echo}:pending") == 0
        with pytest.raises(redis.exceptions.NoPermissionError):
            go_worker.hgetall("runqy:config:{config}:documents")


def test_management_commands_beside_a_stack_work_on_it(stack):
    stack.start()

    key = stack.manage("create_api_key", "tool", "--role", "client").split()[-1]

    assert stack.ask("/queue/add", b'{"queue":"echo","data":{}}', key=key)["info"]["queue"] == "echo"
    assert "not published" not in stack.manage("vault_status")


def test_stack_outlives_its_only_queue(stack):
    stack.start()

    stack.ask("/api/cli/configs/echo", method="DELETE")
    wait_until(lambda: "all else goes on" in stack.output, timeout_s=120)

    assert stack.code is None
    assert stack.ask("/health")["status"] == "ok"


def test_killed_stack_leaves_nothing_behind(stack):
    stack.start()
    assert len(stack.processes()) > 4

    stack.signal(signal.SIGKILL)

    wait_until(lambda: not stack.processes(), timeout_s=60)


def test_secrets_are_shown_once_and_kept_private(stack):
    stack.start()
    secrets = {name: (stack.home / name).read_text().strip() for name in ("api_key", "admin_password")}
    first_screen = stack.output
    stack.signal(signal.SIGINT)
    stack.start()

    assert all(secret in first_screen for secret in secrets.values())
    assert not any(secret in stack.output for secret in secrets.values())
    assert all((stack.home / name).stat().st_mode & 0o777 == 0o600 for name in secrets)
    assert stack.home.stat().st_mode & 0o777 == 0o700
    for line in stack.processes():
        assert not any(secret in line for secret in secrets.values())


def test_line_on_the_screen_works_when_pasted(stack):
    stack.start()
    line = next(line for line in stack.output.splitlines() if "/queue/add" in line)

    if not shutil.which("curl"):
        line = f'curl() {{ {sys.executable} -c {shlex.quote(ASK)} "$@"; }}\n{line}'
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True)

    assert '"queue":"echo"' in done.stdout.replace(" ", "")


def test_second_instance_on_a_folder_is_refused(stack):
    stack.start()
    second = Stack(stack.home.parent, output="second", QUEUE_WORKERS_DIR=str(stack.home.parent / "files"))

    second.launch()

    assert second.wait() == 1
    assert re.match(r"runqy up: process \d+ runs here already: it holds ", second.output)
    assert second.output.count("\n") == 1


def test_busy_port_is_a_sentence(stack):
    with socket.create_server(("127.0.0.1", stack.port)):
        stack.launch()

        assert stack.wait() == 1
    assert stack.output == (
        f"runqy up: port {stack.port} cannot be used: address already in use. Choose another one with PORT=….\n"
    )


def test_broken_queue_file_is_a_sentence_with_its_place(stack):
    path = stack.home.parent / "files/broken.yaml"
    path.write_text("queues:\n  echo2:\n    priority: 1\n    deploiment: {}\n")

    stack.launch()

    assert stack.wait() == 1
    assert stack.output.startswith("runqy up: there is something wrong in the queue files.\n")
    assert f"{path}:4: queues.echo2.deploiment: unknown key; did you mean `deployment`?" in stack.output
    assert "Traceback" not in stack.output


def test_missing_git_is_a_sentence(tmp_path):
    (tmp_path / "bin").mkdir()
    stack = Stack(tmp_path, PATH=str(tmp_path / "bin"))

    stack.launch()

    assert stack.wait() == 1
    assert stack.output == "runqy up: git is not installed; the worker deploys code with it.\n"


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("PORT", "http", "PORT: 'http' is not a whole number from 1 to 65535.\n"),
        ("DEBUG", "flase", "DEBUG: 'flase' is neither true nor false.\n"),
        ("RUNQY_HOME", "/dev/null", "RUNQY_HOME: /dev/null cannot be used: File exists.\n"),
        ("QUEUE_WORKERS_DIR", "/nowhere", "runqy up: QUEUE_WORKERS_DIR is no folder: /nowhere\n"),
    ],
)
def test_wrong_setting_is_a_sentence(tmp_path, name, value, sentence):
    stack = Stack(tmp_path, **{name: value})

    stack.launch()

    assert stack.wait() == 1
    assert stack.output == sentence
