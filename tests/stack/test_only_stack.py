"""There is one stack on a folder, and one that was killed leaves nothing behind."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from runqy.errors import StackFailed
from runqy.stack import locks
from runqy.stack.locks import FileLock, is_held, only_stack
from runqy.stack.stop_signals import Interrupted
from tests.support.processes import is_alive
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

STACK = """
import signal, sys, time
from pathlib import Path
from runqy.stack.locks import only_stack
from runqy.stack.processes import ProcessSpec
from runqy.stack.stop_signals import catch_signals
from runqy.stack.supervisor import Supervisor

folder = Path(sys.argv[1])
PROGRAM = "import os, signal, sys, time; " \\
    "signal.signal(signal.SIGTERM, lambda *_: (print('saved', flush=True), os._exit(0))); " \\
    "print(os.getpid(), flush=True); time.sleep(600)"
with catch_signals() as stop, only_stack(folder, stop) as lock:
    supervisor = Supervisor(stop, print, [lock.fd])
    for name, number in (("killed", signal.SIGKILL), ("terminated", signal.SIGTERM)):
        log = folder / name
        args = (sys.executable, "-c", PROGRAM)
        spec = ProcessSpec(name=name, args=args, env={}, log=log, death_signal=number)
        supervisor.start(spec, lambda: log.read_text().endswith("\\n"))
    print("up", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def stack(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(STACK), str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "up\n"
        yield process
        process.kill()


def test_second_stack_is_refused_with_the_pid_of_the_first(stack, tmp_path, stop):
    with pytest.raises(StackFailed) as failure, only_stack(tmp_path, stop):
        pass

    assert f"process {stack.pid} is already running here: it holds {tmp_path}/stack.lock." in str(failure.value)


def test_processes_end_with_a_killed_stack_and_may_save_their_data(stack, tmp_path):
    killed, terminated = tmp_path / "killed", tmp_path / "terminated"
    pids = [int(log.read_text()) for log in (killed, terminated)]
    assert all(map(is_alive, pids))

    stack.kill()

    wait_until(lambda: not any(map(is_alive, pids)))
    assert "saved" in terminated.read_text()
    assert "saved" not in killed.read_text()


def test_a_start_waits_for_the_processes_of_a_killed_stack(stack, tmp_path, stop, monkeypatch):
    pid = int((tmp_path / "terminated").read_text())
    os.kill(pid, signal.SIGSTOP)
    stack.kill()
    stack.wait()
    with monkeypatch.context() as patch:
        patch.setattr(locks, "_LEFTOVERS_S", 0.1)
        with pytest.raises(StackFailed, match="killed stack still runs"), only_stack(tmp_path, stop):
            pass

    os.kill(pid, signal.SIGCONT)

    with only_stack(tmp_path, stop):
        assert not is_alive(pid)


def test_locks_are_free_after_a_stack(tmp_path, stop):
    with only_stack(tmp_path, stop):
        assert is_held(tmp_path / "stack.lock")

    assert not is_held(tmp_path / "stack.lock")
    assert not is_held(tmp_path / "processes.lock")


def test_signal_ends_the_wait_for_processes(tmp_path, stop):
    leftover = FileLock(tmp_path / "processes.lock")
    os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted), only_stack(tmp_path, stop):
        pass
    leftover.close()
