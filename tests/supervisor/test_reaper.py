"""There is one stack on a folder, and one that was killed leaves nothing behind."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from runqy.errors import StackFailed
from runqy.supervisor.locks import FileLock, is_held
from runqy.supervisor.reaper import StackLocks, only_stack
from runqy.supervisor.stop_signals import Interrupted
from tests.support.processes import is_alive
from tests.support.waiting import wait_until

STACK = """
import sys, time
from pathlib import Path
from runqy.supervisor.reaper import StackLocks, only_stack
from runqy.supervisor.processes import Process
from runqy.supervisor.process_specs import ProcessSpec
from runqy.supervisor.stop_signals import catch_signals

folder = Path(sys.argv[1])
locks = StackLocks(stack=folder / "stack.lock", processes=(folder / "b.lock", folder / "a.lock"))
with catch_signals() as stop, only_stack(locks, stop):
    for name in ("a", "b"):
        args = (sys.executable, "-c", "import time; time.sleep(600)")
        Process(ProcessSpec(name=name, args=args, env={}, lock=folder / f"{name}.lock"))
    print("up", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def locks(tmp_path):
    return StackLocks(stack=tmp_path / "stack.lock", processes=(tmp_path / "b.lock", tmp_path / "a.lock"))


def waits_for_input(pid):
    """Return whether a process reads its standard input, which is a pipe that nothing was written to."""
    return Path(f"/proc/{pid}/wchan").read_text().endswith("pipe_read")


@pytest.fixture
def stack(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(STACK), str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "up\n"
        yield process
        process.kill()


def test_second_stack_is_refused_with_the_pid_of_the_first(stack, locks, stop):
    with pytest.raises(StackFailed) as failure, only_stack(locks, stop):
        pass

    assert f"process {stack.pid} is already running here: it holds {locks.stack}." in str(failure.value)


def test_reaper_ends_the_processes_of_a_killed_stack(stack, locks):
    pids = [int(lock.read_text()) for lock in locks.processes]
    assert all(map(is_alive, pids))

    stack.kill()

    wait_until(lambda: not any(map(is_alive, pids)))
    wait_until(lambda: not is_held(locks.stack))


def test_reaper_waits_until_a_killed_stack_releases_its_lock(locks):
    lock = FileLock(locks.stack)
    lock.write_holder("process 1")
    args = (sys.executable, "-m", "runqy.supervisor.reaper", *map(str, (locks.stack, *locks.processes)))
    with subprocess.Popen(args, stdin=subprocess.PIPE) as reaper:
        reaper.stdin.close()
        with pytest.raises(subprocess.TimeoutExpired):
            reaper.wait(timeout=2)
        lock.close()

        assert reaper.wait(timeout=30) == 0
    assert locks.stack.read_text() == "cleaning up"


def test_reaper_does_not_touch_a_new_stack(locks):
    lock = FileLock(locks.stack)
    lock.write_holder("process 1")
    args = (sys.executable, "-m", "runqy.supervisor.reaper", *map(str, (locks.stack, *locks.processes)))
    with subprocess.Popen(args, stdin=subprocess.PIPE) as reaper:
        wait_until(lambda: waits_for_input(reaper.pid))  # it knows process 1
        lock.write_holder("process 2")
        reaper.stdin.close()

        assert reaper.wait(timeout=30) == 0
    assert locks.stack.read_text() == "process 2"
    lock.close()


def test_new_stack_ends_the_processes_of_a_killed_one(stack, locks, stop):
    pids = [int(lock.read_text()) for lock in locks.processes]
    stack.kill()
    stack.wait()

    with only_stack(locks, stop):
        assert not any(map(is_alive, pids))
        assert locks.stack.read_text() == f"process {os.getpid()}"


def test_lock_of_the_stack_is_free_after_it(locks, stop):
    with only_stack(locks, stop):
        assert is_held(locks.stack)

    assert not is_held(locks.stack)


def test_signal_ends_the_wait_for_a_reaper(locks, stop):
    reaper = FileLock(locks.stack)
    reaper.write_holder("cleaning up")
    os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted), only_stack(locks, stop):
        pass
    reaper.close()
