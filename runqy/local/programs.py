"""Spells the command line of each process that a stack consists of."""

import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from runqy.local.processes import Program


def web(*, bind: str, env: Mapping[str, str], lock: Path, log: Path | None = None, drain_s: int = 0) -> Program:
    """Return the web server, which goes on for so long after it was asked to end."""
    args = ("-m", "gunicorn", "runqy.asgi:application", "--config", "python:runqy.gunicorn_conf", "--bind", bind)
    return Program(
        name="web server",
        args=(sys.executable, *args),
        env=env,
        lock=lock,
        log=log,
        grace_s=drain_s + 15.0,
        farewell=signal.SIGUSR1,
    )


def maintenance(*, env: Mapping[str, str], lock: Path, log: Path | None = None) -> Program:
    """Return the maintenance process."""
    args = ("-m", "django", "run_maintenance")
    return Program(name="maintenance", args=(sys.executable, *args), env=env, lock=lock, log=log)


def commands(*commands: Sequence[str], env: Mapping[str, str], lock: Path, log: Path | None = None) -> Program:
    """Return management commands, Django's or ours, that run one after another."""
    words = [word for command in commands for word in ("--", *command)]
    name = f"command {' and '.join(command[0] for command in commands)}"
    return Program(name=name, args=(sys.executable, "-m", "runqy.commands", *words), env=env, lock=lock, log=log)


def worker(*, env: Mapping[str, str], lock: Path, log: Path | None, shutdown_s: int) -> Program:
    """Return a worker. It gets longer to end than it gives to its running tasks."""
    args = (sys.executable, "-m", "workers.runtime.main")
    grace_s = shutdown_s + 10.0
    return Program(name="worker", args=args, env=env, lock=lock, log=log, grace_s=grace_s)
