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
    """Held by the process and its children while any of them lives."""
    log: Path | None = None
    """File that its output is appended to; None: the supervisor's own output."""
    grace_s: float = 10.0
    """Time between SIGTERM and SIGKILL."""
    hurried_s: float = 5.0
    """Time between a second SIGTERM and SIGKILL."""
    stop_signal: signal.Signals | None = None
    """Sent when the stack begins to stop, which may be long before this process gets SIGTERM."""
    death_signal: signal.Signals = signal.SIGKILL
    """Sent by Linux when the supervisor is killed."""


def python_command(module: str, *args: str) -> tuple[str, ...]:
    """Return the command that runs a module, with the server's secrets: no code of the working directory (`-P`)."""
    return sys.executable, "-P", "-m", module, *args


def web(*, bind: str, env: Mapping[str, str], log: Path | None = None, drain_s: int = 0) -> ProcessSpec:
    """Return the web server, which continues to serve for `drain_s` after SIGTERM."""
    args = ("runqy.asgi:application", "--config", "python:runqy.gunicorn_conf", "--bind", bind)
    return ProcessSpec(
        name="web server",
        args=python_command("runqy.dataplane.gunicorn_app", *args),
        env=env,
        log=log,
        grace_s=drain_s + 15.0,
        stop_signal=signal.SIGUSR1,
    )


def maintenance(*, env: Mapping[str, str], log: Path | None = None) -> ProcessSpec:
    args = python_command("django", "run_maintenance")
    return ProcessSpec(name="maintenance", args=args, env=env, log=log)


def commands(*commands: Sequence[str], env: Mapping[str, str], log: Path | None = None) -> ProcessSpec:
    """Return a process that runs management commands one after another."""
    words = [word for command in commands for word in ("--", *command)]
    name = f"command {' and '.join(command[0] for command in commands)}"
    args = python_command("runqy.management_commands", *words)
    return ProcessSpec(name=name, args=args, env=env, log=log)


def worker(*, env: Mapping[str, str], log: Path | None, shutdown_s: int) -> ProcessSpec:
    """Return a worker, which waits for its running tasks unless it gets a second SIGTERM, and then stops."""
    args = python_command("workers.runtime.main")
    grace_s = shutdown_s + QUICK_STOP_S
    return ProcessSpec(name="worker", args=args, env=env, log=log, grace_s=grace_s, hurried_s=QUICK_STOP_S)
