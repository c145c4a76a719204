"""The supervisor restarts what ends, gives up what keeps ending, and ends everything in reverse order."""

import os
import signal

import pytest

from runqy.errors import StackFailed
from runqy.stack import supervisor as supervisor_module
from runqy.stack.stop_signals import Interrupted
from runqy.stack.supervisor import Supervisor
from tests.support.processes import is_alive
from tests.support.waiting import wait_until

SLEEP = "import time; time.sleep(600)"
ANNOUNCE_END = """
import signal, sys, time
def end(*_):
    with open({path!r}, "a") as file: file.write({name!r} + "\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print("up")
time.sleep(600)
"""


@pytest.fixture
def messages():
    return []


@pytest.fixture
def supervisor(stop, messages):
    supervisor = Supervisor(stop, messages.append)
    yield supervisor
    supervisor.stop()


def test_killed_process_is_restarted(supervisor, make_program, messages):
    program = make_program("import os, time; print(os.getpid()); time.sleep(600)")
    first = supervisor.start(program)
    wait_until(lambda: program.log.read_text().endswith("\n"))  # written after the number, by a call of its own
    os.kill(first.pid, signal.SIGKILL)

    assert supervisor.wait_until(lambda: program.log.read_text().count("\n") == 2, timeout_s=60)

    assert messages == ["the program was killed by SIGKILL; restarting in 0.5 s."]
    assert is_alive(int(program.log.read_text().split()[1]))


def test_process_that_keeps_exiting_is_restarted_and_reported_five_times(
    supervisor, make_program, messages, monkeypatch, tmp_path
):
    monkeypatch.setattr(supervisor_module, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(supervisor_module, "MAX_PAUSE_S", 0.02)
    tries = tmp_path / "tries"
    source = f"open({str(tries)!r}, 'a').write('x'); print('no queue left'); raise SystemExit(1)"
    needed = supervisor.start(make_program(SLEEP, name="server"))
    supervisor.start(make_program(source))

    assert supervisor.wait_until(lambda: tries.exists() and len(tries.read_text()) > 7, timeout_s=60)

    assert len(messages) == 5
    assert "5 times in a row" in messages[-1]
    assert ["no queue left" in message for message in messages] == [True, False, False, False, True]
    assert needed.poll() is None


def test_process_that_ends_before_it_is_ready_fails_the_start(supervisor, make_program):
    with pytest.raises(StackFailed, match="the program exited with code 1"):
        supervisor.start(make_program("raise SystemExit(1)"), is_ready=lambda: False)


def test_process_that_never_becomes_ready_fails_the_start(supervisor, make_program):
    with pytest.raises(StackFailed, match="not ready after 0 s"):
        supervisor.start(make_program(SLEEP), is_ready=lambda: False, timeout_s=0.1)


def test_signal_ends_the_wait_for_readiness(supervisor, make_program):
    def is_ready():
        os.kill(os.getpid(), signal.SIGTERM)
        return False

    with pytest.raises(Interrupted):
        supervisor.start(make_program(SLEEP), is_ready=is_ready)


def test_processes_end_in_reverse_order(supervisor, make_program, tmp_path):
    order = tmp_path / "order"
    for name in ("first", "second", "third"):
        program = make_program(ANNOUNCE_END.format(path=str(order), name=name), name=name)
        supervisor.start(program, is_ready=lambda log=program.log: "up" in log.read_text())

    supervisor.stop()

    assert order.read_text().split() == ["third", "second", "first"]


def test_run_ends_with_a_signal(supervisor, make_program):
    process = supervisor.start(make_program(SLEEP))
    os.kill(os.getpid(), signal.SIGINT)

    supervisor.run()
    supervisor.stop()

    wait_until(lambda: not is_alive(process.pid))
