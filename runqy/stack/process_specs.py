"""The command line of each process of a stack."""

import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from workers.runtime.worker_session import QUICK_STOP_S


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """A program to start, and how long it may take to exit."""

    name: str
    args: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    lock: Path | None = None
    """The process and its children hold this lock while any of them lives."""
    log: Path | None = None
    """The file that the output is appended to; None for the supervisor's own output."""
    grace_s: float = 10.0
    """The time between SIGTERM and SIGKILL."""
    hurried_s: float = 5.0
    """The time between a second SIGTERM and SIGKILL."""
    stop_signal: signal.Signals | None = None
    """Sent when the stack begins to stop. This process may get SIGTERM much later."""
    death_signal: signal.Signals = signal.SIGKILL
    """Linux sends it when the supervisor is killed."""


def python_command(module: str, *args: str) -> tuple[str, ...]:
    # -P: the process has the server's secrets, and must not import code of the working directory.
    return sys.executable, "-P", "-m", module, *args


def web(*, bind: str, env: Mapping[str, str], log: Path | None = None, drain_s: int = 0) -> ProcessSpec:
    """Return the web server. It continues to serve for `drain_s` after SIGTERM."""
    args = ("runqy.asgi:application", "--config", "python:runqy.gunicorn_conf", "--bind", bind)
    return ProcessSpec(
        name="web server",
        args=python_command("runqy.server.dataplane.gunicorn_app", *args),
        env=env,
        log=log,
        grace_s=drain_s + 15.0,
        stop_signal=signal.SIGUSR1,  # begins to drain (runqy/server/dataplane/drain.py)
    )


def maintenance(*, env: Mapping[str, str], log: Path | None = None) -> ProcessSpec:
    args = python_command("django", "run_maintenance")
    return ProcessSpec(name="maintenance", args=args, env=env, log=log)


def commands(*commands: Sequence[str], env: Mapping[str, str], log: Path | None = None) -> ProcessSpec:
    """Return a process that runs management commands one after another."""
    words = [word for command in commands for word in ("--", *command)]
    name = f"command {' and '.join(command[0] for command in commands)}"
    args = python_command("runqy.manage", *words)
    return ProcessSpec(name=name, args=args, env=env, log=log)


def worker(*, env: Mapping[str, str], log: Path | None, shutdown_s: int) -> ProcessSpec:
    """Return a worker. It waits for running tasks, until it gets a second SIGTERM."""
    args = python_command("workers.runtime.main")
    grace_s = shutdown_s + QUICK_STOP_S
    return ProcessSpec(name="worker", args=args, env=env, log=log, grace_s=grace_s, hurried_s=QUICK_STOP_S)
