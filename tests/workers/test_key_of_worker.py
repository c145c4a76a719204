"""A task cannot read the API key of its worker where the worker is deployed as in `deploy/` and `compose.yaml`."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from runqy.broker.broker import Broker
from tests.deploy.test_containers import services
from tests.deploy.test_services import PODS, UNITS
from tests.support import environment
from tests.workers.fake_server import API_KEY, FakeServer, registration_response
from tests.workers.processes import SDK_FILES, add_task, wait_for_state

ROOT = Path(__file__).parents[2]
UID = int(re.search(r"--uid (\d+)", (ROOT / "deploy/Dockerfile").read_text())[1])
BECOME_USER = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--inh-caps=-all"]
# Looks at every file of its machine that the key may be in, and at all that processes show of themselves.
LOOK = """
import glob, hashlib, os, re, stat
from runqy_python import run, task

@task
def look(payload):
    found = []
    for pattern in payload["places"]:
        for path in glob.glob(pattern):
            try:
                if not stat.S_ISREG(os.stat(path).st_mode):
                    continue
                with open(path, "rb") as file:
                    words = re.split(rb"[\\s\\0=]+", file.read(1 << 20))
            except OSError:
                continue
            if any(hashlib.sha256(word).hexdigest() == payload["digest"] for word in words):
                found.append(re.sub("[0-9]+", "N", path))
    return sorted({*found})

run()
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a worker as another user"),
]


# Binds a folder elsewhere, hides the folder of one user that it is in, and binds it to its place again.
_REACH = """
set -e
umask 022
mkdir "$3"
mount --bind "$1" "$3"
mount -t tmpfs -o mode=755 tmpfs "$2"
mkdir -p "$1"
mount --bind "$3" "$1"
shift 3
exec "$@"
"""


def reach_python(folder: Path) -> list[str]:
    """Return the beginning of a command line for users that cannot reach the Python of the tests in root's home."""
    base = Path(sys.base_prefix).resolve()
    closed = [str(parent) for parent in base.parents if not parent.stat().st_mode & 1]
    return ["unshare", "--mount", "sh", "-c", _REACH, "sh", str(base), closed[-1], f"{folder}/python"] if closed else []


class Machine:
    """A folder with the key in a file that only root can read, and the programs of the worker's image."""

    def __init__(self, folder: Path, server: FakeServer) -> None:
        self.folder, self.home, self.key = folder, folder / "home", folder / "secrets/api_key"
        folder.chmod(0o755)
        self.key.parent.mkdir(mode=0o700)
        self.key.write_text(f"{API_KEY}\n")
        self.key.chmod(0o600)
        self._write_programs(folder / "bin")
        for name, content in {**SDK_FILES, "main.py": LOOK.encode()}.items():
            (folder / "code" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "code" / name).write_bytes(content)
        for name in ("bin", "code"):
            for path in (folder / name, *(folder / name).rglob("*")):
                path.chmod(0o755)
        self.home.mkdir()
        os.chown(self.home, UID, UID)
        self.env = {
            "PATH": f"{folder}/bin:{os.environ['PATH']}",
            "PYTHONPATH": ":".join([str(ROOT), *filter(None, sys.path)]),
            "HOME": str(self.home),
            "RUNQY_HOME": str(self.home),
            "RUNQY_SERVER_URL": server.url,
            "RUNQY_QUEUES": "mail",
            "RUNQY_LOCAL_DIR": str(folder / "code"),
            "RUNQY_ISOLATE_CHILDREN": "false",  # it holds also where the kernel has no Landlock
        }

    def _write_programs(self, folder: Path) -> None:
        folder.mkdir()
        programs = {
            "runqy-worker": f'#!/bin/sh\nexec {sys.executable} -m workers.runtime.main "$@"\n',
            "tini": '#!/bin/sh\nshift\n"$@"\n',  # process 1 has an environment and descriptors too
            "worker-entrypoint": (ROOT / "deploy/worker-entrypoint").read_text(),
        }
        for name, text in programs.items():
            (folder / name).write_text(text)

    def start_as_compose(self) -> "subprocess.Popen[bytes]":
        worker = services(ROOT / "compose.yaml")["worker"]
        assert (worker["user"], worker["environment"]["RUNQY_API_KEY_FILE"]) == ("0:0", "/run/secrets/api_key")
        drop = ["setpriv", "--bounding-set=-all,+setuid,+setgid", "--no-new-privs"]
        return self._start([*drop, "worker-entrypoint", "runqy-worker"], RUNQY_API_KEY_FILE=str(self.key))

    def start_as_kubernetes(self) -> "subprocess.Popen[bytes]":
        (worker,) = PODS["runqy-worker-greeter"]["containers"]
        assert {"RUNQY_API_KEY"} == {one["name"] for one in worker["env"] if "API_KEY" in one["name"]}
        return self._start([*BECOME_USER, "worker-entrypoint", *worker["args"]], RUNQY_API_KEY=API_KEY)

    def start_as_systemd(self) -> "subprocess.Popen[bytes]":
        unit = UNITS["runqy-worker@.service"]
        assert re.search(r"^StandardInput=file:/etc/runqy/worker-%i.key$", unit, re.MULTILINE)
        (name,) = re.findall(r"^Environment=RUNQY_API_KEY_FILE=(.*)$", unit, re.MULTILINE)
        with self.key.open("rb") as key:
            return self._start([*BECOME_USER, "runqy-worker"], stdin=key.fileno(), RUNQY_API_KEY_FILE=name)

    def start_with_a_file_of_its_user(self) -> "subprocess.Popen[bytes]":
        self.key.parent.chmod(0o755)
        os.chown(self.key, UID, UID)
        return self._start([*BECOME_USER, "runqy-worker"], RUNQY_API_KEY_FILE=str(self.key))

    def _start(self, words: list[str], *, stdin: int = subprocess.DEVNULL, **env: str) -> "subprocess.Popen[bytes]":
        with (self.folder / "log").open("wb") as log:
            return subprocess.Popen(
                [*reach_python(self.folder), *words],
                env=self.env | env,
                stdin=stdin,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
            )


@pytest.fixture
def machine(redis: object) -> Iterator[Machine]:
    server = FakeServer(registration_response(redis_port=environment.SERVER.port, git_url="https://127.0.0.1:1/none"))
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="runqy-key-") as folder:  # other users can reach it
        yield Machine(Path(folder), server)
    server.close()


@pytest.mark.parametrize(
    ("way", "found"),
    [
        ("start_as_compose", []),
        ("start_as_kubernetes", []),
        ("start_as_systemd", []),
        ("start_with_a_file_of_its_user", ["secrets/api_key"]),
    ],
)
def test_a_task_looks_for_the_key_of_its_worker(
    machine: Machine, single_broker: Broker, way: str, found: list[str]
) -> None:
    of_processes = [f"/proc/*/{name}" for name in ("environ", "cmdline", "fd/*")]
    places = [f"{machine.folder}/secrets/*", f"{machine.home}/**", *of_processes]
    worker = getattr(machine, way)()
    try:
        digest = hashlib.sha256(API_KEY.encode()).hexdigest()
        task = add_task(single_broker, {"places": places, "digest": digest})
        record = wait_for_state(single_broker, task, "completed", "archived")
    finally:
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()
        print((machine.folder / "log").read_text())

    assert record.state == "completed"
    assert [path.split("/", 4)[-1] for path in json.loads(record.result)] == found
