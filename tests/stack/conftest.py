"""Processes that the supervisor tests start, and functions that wait for them."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runqy.stack.processes import ProcessSpec
from runqy.stack.stop_signals import StopSignals, catch_signals
from tests.stack.serving import Serve

MakeProgram = Callable[..., ProcessSpec]


@pytest.fixture
def stop() -> Iterator[StopSignals]:
    """Return the stop signals of this process."""
    with catch_signals() as signals:
        yield signals


@pytest.fixture
def make_program(tmp_path: Path) -> MakeProgram:
    """Return a function that makes the spec of a Python program, whose output is logged."""

    def make(text: str, name: str = "program", grace_s: float = 10.0, hurried_s: float = 5.0) -> ProcessSpec:
        return ProcessSpec(
            name=name,
            args=(sys.executable, "-c", text),
            env=dict(os.environ) | {"PYTHONUNBUFFERED": "1"},
            log=tmp_path / f"{name}.log",
            grace_s=grace_s,
            hurried_s=hurried_s,
        )

    return make


@pytest.fixture
def serve(redis_server: None, tmp_path: Path) -> Iterator[Callable[..., Serve]]:
    """Return a function that starts `runqy serve` with options and variables; all are ended after the test."""
    started: list[Serve] = []

    def start(*options: str, **variables: str) -> Serve:
        started.append(Serve(tmp_path, *options, **variables))
        return started[-1]

    yield start
    for one in started:
        one.end()
