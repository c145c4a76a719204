"""Programs that the supervision tests start, and the means to wait for what they do."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runqy.local.processes import Program
from runqy.local.stop_signals import StopSignals, caught_signals

MakeProgram = Callable[..., Program]


@pytest.fixture
def stop() -> Iterator[StopSignals]:
    """Return the requests to stop that this process gets."""
    with caught_signals() as signals:
        yield signals


@pytest.fixture
def make_program(tmp_path: Path) -> MakeProgram:
    """Return a function that makes a Python program of a text; what it prints is in its log."""

    def make(text: str, name: str = "program", grace_s: float = 10.0) -> Program:
        return Program(
            name=name,
            args=(sys.executable, "-c", text),
            env=dict(os.environ) | {"PYTHONUNBUFFERED": "1"},
            lock=tmp_path / f"{name}.lock",
            log=tmp_path / f"{name}.log",
            grace_s=grace_s,
        )

    return make


def wait_until(is_so: Callable[[], object], timeout_s: float = 20.0) -> None:
    """Look until something is so."""
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Tell whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
