"""How long real processes may take until they are ready, while the clock is moved."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from runqy import clock
from tests.support.processes import get_children
from tests.support.waiting import eventually
from workers.runtime.startup_limits import StartupLimits, cpu_time_s

ON_REQUEST = """
import subprocess, sys, time
while line := sys.stdin.readline():
    code = "import time\\nwhile time.process_time() < 0.3: pass\\nprint(flush=True)\\ntime.sleep(600)"
    subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
"""


class Clock:
    """The monotonic clock of this process, which a test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        monkeypatch.setattr(clock, "monotonic_s", lambda: self.now_s)


@contextmanager
def a_process() -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that waits; for each line of input a descendant in a session of its own uses CPU."""
    command = [sys.executable, "-c", ON_REQUEST]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"\n")
        process.stdout.readline()  # it has started, and used its CPU
        yield process
        for descendant in get_children(process.pid):
            os.kill(descendant, signal.SIGKILL)
        process.kill()


def test_a_process_that_uses_cpu_is_given_up_only_at_its_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    now = Clock(monkeypatch)
    with a_process() as process:
        assert process.stdin is not None
        assert process.stdout is not None
        limits = StartupLimits(pid=process.pid, timeout_s=1800, silence_s=600)
        found = []
        for _ in range(3):
            process.stdin.write(b"\n")
            process.stdout.readline()
            now.now_s += 601
            found.append(limits.check())

    assert found[:2] == ["", ""]
    assert found[2] == (
        "the child process was not ready after 30 min: startup_timeout_secs is 1800; "
        "it was using CPU and printed nothing"
    )


def test_a_silent_process_is_given_up_unless_its_queue_says_how_long_it_may_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = Clock(monkeypatch)
    with a_process() as process:
        limits = StartupLimits(pid=process.pid, timeout_s=1800, silence_s=600)
        patient = StartupLimits(pid=process.pid, timeout_s=1800, silence_s=0)
        now.now_s += 120
        limits.record_output()
        now.now_s += 599
        early = limits.check()
        now.now_s += 1
        found = limits.check()
        other = patient.check()

    assert early == other == ""
    assert found == (
        "the child process was not ready after 12 min: no output or use of CPU for 10 min, "
        "which only the queue's startup_timeout_secs allows; it used no CPU for 12 min and printed last 10 min before"
    )


def test_the_time_of_descendants_in_other_sessions_counts() -> None:
    with a_process() as process:
        assert process.stdin is not None
        before = cpu_time_s(process.pid) or 0
        process.stdin.write(b"\n")

        eventually(lambda: (cpu_time_s(process.pid) or 0) >= before + 0.2)
