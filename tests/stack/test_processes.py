"""A process of a stack runs alone on its lock, in its own session, and ends with all it started."""

import os
import signal
import sys
import threading
from dataclasses import replace

import pytest

from runqy.stack.locks import LockHeld, is_held
from runqy.stack.processes import Process, capture, last_lines
from runqy.stack.stop_signals import Interrupted
from tests.support.processes import is_alive
from tests.support.waiting import wait_until

SLEEP = "import time; print('up'); time.sleep(600)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up'); time.sleep(600)"
EXITS_ON_SECOND_SIGTERM = """
import os, signal, time
signals = []
def end(*_):
    signals.append(1)
    print("stopping")
    if len(signals) == 2:
        os._exit(7)
signal.signal(signal.SIGTERM, end)
print("up")
while True:
    time.sleep(600)
"""
PARENT = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', %r], close_fds=False); time.sleep(600)"


def wait_for_output(program):
    wait_until(lambda: program.log.exists() and program.log.read_text().strip())


def test_process_has_a_session_of_its_own(make_program):
    process = Process(make_program(SLEEP))

    assert os.getsid(process.pid) == process.pid != os.getsid(0)
    process.end()


def test_second_process_on_a_lock_is_refused_until_the_first_has_ended(make_program, tmp_path):
    program = replace(make_program(SLEEP), lock=tmp_path / "lock")
    process = Process(program)

    with pytest.raises(LockHeld):
        Process(program)
    process.end()

    assert process.poll() == -signal.SIGTERM
    assert not is_held(program.lock)


def test_process_that_ignores_the_request_is_killed_after_its_grace(make_program):
    program = make_program(STUBBORN, grace_s=0.2)
    process = Process(program)
    wait_for_output(program)

    process.end()

    assert process.poll() == -signal.SIGKILL


def test_second_signal_sends_sigterm_again(make_program, stop):
    program = make_program(EXITS_ON_SECOND_SIGTERM, grace_s=600)
    process = Process(program)
    wait_for_output(program)
    os.kill(os.getpid(), signal.SIGINT)

    def press_again():
        wait_until(lambda: "stopping" in program.log.read_text())
        os.kill(os.getpid(), signal.SIGINT)

    impatient = threading.Thread(target=press_again)
    impatient.start()
    process.end(stop)

    impatient.join()
    assert process.poll() == 7


def test_second_signal_shortens_the_grace_time(make_program, stop):
    program = make_program(STUBBORN, grace_s=600, hurried_s=0.1)
    process = Process(program)
    wait_for_output(program)
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)

    process.end(stop)

    assert process.poll() == -signal.SIGKILL


def test_stop_signal_ends_a_captured_program_and_its_children(stop, tmp_path):
    started = tmp_path / "started"
    child = "import os, pathlib, time; pathlib.Path(%r).write_text(f'{os.getppid()} {os.getpid()} {os.getsid(0)} ')"
    program = PARENT % f"{child % str(started)}; time.sleep(600)"

    def press():
        wait_until(lambda: started.exists() and started.read_text().endswith(" "))
        os.kill(os.getpid(), signal.SIGINT)

    user = threading.Thread(target=press)
    user.start()
    with pytest.raises(Interrupted):
        capture([sys.executable, "-c", program], stop)

    user.join()
    parent, child, session = map(int, started.read_text().split())
    wait_until(lambda: not is_alive(parent) and not is_alive(child))
    assert session == parent


def test_output_of_a_captured_program_is_returned(stop):
    done = capture([sys.executable, "-c", "import sys; print('x' * 200_000); sys.exit('no')"], stop)

    assert (done.returncode, done.stdout, done.stderr) == (1, b"x" * 200_000 + b"\n", b"no\n")


def test_children_of_a_killed_process_are_ended(make_program):
    program = make_program(PARENT % "import os, time; print(os.getpid()); time.sleep(600)")
    process = Process(program)
    wait_for_output(program)
    grandchild = int(program.log.read_text())
    os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: process.poll() is not None)

    assert is_alive(grandchild)
    process.end()
    wait_until(lambda: not is_alive(grandchild))


def test_output_goes_to_a_log_that_only_its_owner_reads(make_program):
    program = make_program("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)")
    process = Process(program)
    wait_until(lambda: process.poll() is not None)

    assert sorted(last_lines(program.log, 15).splitlines()) == ["err", "out"]
    assert program.log.stat().st_mode & 0o777 == 0o600
    assert process.describe_end() == "exited with code 3"
    process.end()


def test_large_log_is_set_aside_at_the_next_start(make_program):
    program = make_program("print('new')")
    program.log.write_bytes(b"x" * (11 << 20))

    process = Process(program)

    wait_until(lambda: process.poll() is not None)
    assert program.log.read_text() == "new\n"
    assert program.log.with_name("program.log.1").stat().st_size == 11 << 20
    process.end()


def test_secrets_in_the_environment_are_not_shown(make_program):
    assert "PYTHONUNBUFFERED" not in repr(make_program(SLEEP))
    assert sys.executable in repr(make_program(SLEEP))
