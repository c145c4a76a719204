"""There is one stack on a folder, and one that was killed leaves nothing behind."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from runqy.errors import StackFailed
from runqy.local.guardian import StackLocks, only_stack
from runqy.local.locks import FileLock, is_held
from runqy.local.stop_signals import StopAsked
from tests.local.conftest import is_alive, wait_until

STACK = """
import sys, time
from pathlib import Path
from runqy.local.guardian import StackLocks, only_stack
from runqy.local.processes import Process, Program
from runqy.local.stop_signals import caught_signals

folder = Path(sys.argv[1])
locks = StackLocks(stack=folder / "stack.lock", processes=(folder / "b.lock", folder / "a.lock"))
with caught_signals() as stop, only_stack(locks, stop):
    for name in ("a", "b"):
        args = (sys.executable, "-c", "import time; time.sleep(600)")
        Process(Program(name=name, args=args, env={}, lock=folder / f"{name}.lock"))
    print("up", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def locks(tmp_path):
    return StackLocks(stack=tmp_path / "stack.lock", processes=(tmp_path / "b.lock", tmp_path / "a.lock"))


@pytest.fixture
def stack(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(STACK), str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "up\n"
        yield process
        process.kill()


def test_second_stack_is_refused_and_told_of_the_first(stack, locks, stop):
    with pytest.raises(StackFailed) as failure, only_stack(locks, stop):
        pass

    assert f"process {stack.pid} runs here already: it holds {locks.stack}." in str(failure.value)


def test_guardian_ends_what_a_killed_stack_leaves(stack, locks):
    pids = [int(lock.read_text()) for lock in locks.processes]
    assert all(map(is_alive, pids))

    stack.kill()

    wait_until(lambda: not any(map(is_alive, pids)))
    wait_until(lambda: not is_held(locks.stack))


def test_guardian_waits_until_a_killed_stack_has_let_go_of_its_lock(locks):
    lock = FileLock(locks.stack)
    lock.note("process 1")
    args = (sys.executable, "-m", "runqy.local.guardian", *map(str, (locks.stack, *locks.processes)))
    with subprocess.Popen(args, stdin=subprocess.PIPE) as guardian:
        guardian.stdin.close()
        with pytest.raises(subprocess.TimeoutExpired):
            guardian.wait(timeout=2)
        lock.close()

        assert guardian.wait(timeout=20) == 0
    assert locks.stack.read_text() == "cleaning up"


def test_guardian_leaves_a_new_stack_alone(locks):
    lock = FileLock(locks.stack)
    lock.note("process 1")
    args = (sys.executable, "-m", "runqy.local.guardian", *map(str, (locks.stack, *locks.processes)))
    with subprocess.Popen(args, stdin=subprocess.PIPE) as guardian:
        with pytest.raises(subprocess.TimeoutExpired):
            guardian.wait(timeout=2)
        lock.note("process 2")
        guardian.stdin.close()

        assert guardian.wait(timeout=20) == 0
    assert locks.stack.read_text() == "process 2"
    lock.close()


def test_new_stack_ends_what_a_killed_one_left(stack, locks, stop):
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


def test_waiting_for_a_guardian_can_be_ended(locks, stop):
    guardian = FileLock(locks.stack)
    guardian.note("cleaning up")
    os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(StopAsked), only_stack(locks, stop):
        pass
    guardian.close()
