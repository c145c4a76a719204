"""`make test` leaves no process behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import is_alive
from tests.support.run_pytest import LAUNCHED
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]

HANGING = """
import subprocess, time
from pathlib import Path

def test_hangs():
    server = subprocess.Popen(["sleep", "600"], start_new_session=True)
    Path("started").write_text(f"{server.pid}\\n")
    time.sleep(600)
"""


BY_MAKE = ["tests.support.run_pytest"]
DIRECTLY = ["pytest", "-p", "tests.support.environment"]


@pytest.mark.parametrize(
    ("started_by", "number"),
    [(BY_MAKE, signal.SIGINT), (BY_MAKE, signal.SIGTERM), (BY_MAKE, signal.SIGKILL), (DIRECTLY, signal.SIGKILL)],
)
def test_tests_that_are_interrupted_leave_no_server_behind(
    tmp_path: Path, started_by: list[str], number: signal.Signals
) -> None:
    (tmp_path / "test_it.py").write_text(HANGING)
    started = tmp_path / "started"
    process = subprocess.Popen(
        [sys.executable, "-m", *started_by, "-p", "no:cacheprovider", "-c", "/dev/null", "test_it.py"],
        cwd=tmp_path,
        env={
            **{name: value for name, value in os.environ.items() if name != LAUNCHED},
            "PYTHONPATH": str(ROOT),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        },
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        pid = int(eventually(lambda: started.exists() and started.read_text()))
        process.send_signal(number)

        printed, _ = process.communicate()
        eventually(lambda: not is_alive(pid))
    finally:
        process.kill()

    assert ("KeyboardInterrupt" in printed) is (number is signal.SIGINT)


def test_the_status_of_pytest_is_kept(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_it():\n    assert False\n")

    command = [sys.executable, "-m", "tests.support.run_pytest", "-q", "-c", "/dev/null", "test_it.py"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    ended = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)

    assert (ended.returncode, "1 failed" in ended.stdout) == (1, True)


STUCK = """
import threading

def test_is_stuck(tmp_path):
    (tmp_path / "log").write_text("the server waits for its disk")
    thread = threading.Thread(target=threading.Event().wait, name="waits-for-nobody", daemon=True)
    thread.start()
    thread.join()
"""


def test_a_stuck_test_ends_with_the_stacks_of_its_threads_and_the_logs_of_its_servers(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(STUCK)

    command = [sys.executable, "-m", "tests.support.run_pytest", "-p", "tests.support.server_logs"]
    command += ["-p", "pytest_timeout", "--timeout", "1", "-c", "/dev/null", "test_it.py"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    ended = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)

    assert ended.returncode == 1
    assert "Stack of waits-for-nobody" in ended.stdout + ended.stderr
    assert "the server waits for its disk" in ended.stdout
