"""The processes of a stack: their command lines, their start and their stop.

When the supervisor is killed, Linux ends the processes that it started.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from runqy.errors import StackFailed
from runqy.stack.locks import FileLock
from runqy.stack.stop_signals import Interrupted, StopSignals
from workers.deploy.exec_child import launcher_command, launcher_environment
from workers.runtime.worker_session import QUICK_STOP_S

_LOG_MAX_BYTES = 10 << 20
_POLL_S = 0.05
_CAPTURED_GRACE_S = 5.0


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
        stop_signal=signal.SIGUSR1,  # begins to drain (runqy/server/dataplane/application.py)
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


class Process:
    """A running process of a stack."""

    def __init__(self, spec: ProcessSpec, *, inherited_fds: Sequence[int] = ()) -> None:
        """Start the process. Raise LockHeld if another one holds the lock of its spec."""
        self.spec = spec
        self.started_at = time.monotonic()
        lock = None if spec.lock is None else FileLock(spec.lock)
        log = None if spec.log is None else _open_log(spec.log)
        try:
            self._popen = subprocess.Popen(
                [*launcher_command(is_isolated=False, death_signal=spec.death_signal), *spec.args],
                env=launcher_environment(spec.env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches only the supervisor, which stops the others in order
                pass_fds=[*inherited_fds, *([lock.fd] if lock else [])],
            )
        finally:
            if lock is not None:
                lock.close()
            if log is not None:
                os.close(log)

    @property
    def pid(self) -> int:
        """Return the pid, which is also the id of its session and process group."""
        return self._popen.pid

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None while the process runs."""
        return self._popen.poll()

    def wait(self, stop: StopSignals, timeout_s: float) -> int | None:
        """Wait for the exit code, at most `timeout_s`; None while the process runs. Raise Interrupted on a signal."""
        deadline = time.monotonic() + timeout_s
        while self.poll() is None and time.monotonic() < deadline:
            stop.sleep(_POLL_S)
        return self.poll()

    def announce_stop(self) -> None:
        if self.spec.stop_signal is not None and self.poll() is None:
            self._popen.send_signal(self.spec.stop_signal)

    def end(self, stop: StopSignals | None = None) -> None:
        """Send SIGTERM, and again on a second stop signal. Kill the process group after the grace time."""
        is_hurried = False
        deadline = time.monotonic() + self.spec.grace_s
        if self.poll() is None:
            self._popen.terminate()
        while self.poll() is None and time.monotonic() < deadline:
            if stop is not None and stop.count > 1 and not is_hurried:
                self._popen.terminate()  # a worker then requeues its tasks instead of letting them end
                is_hurried, deadline = True, min(deadline, time.monotonic() + self.spec.hurried_s)
            time.sleep(_POLL_S)  # not `stop.sleep`, which raises after the first signal
        _signal_group(self.pid, signal.SIGKILL)  # its children too, even if it has ended by itself
        self._popen.wait()

    def describe_end(self) -> str:
        code = self.poll()
        if code is None:
            return "is still running"
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"


class CommandFailed(StackFailed):
    """A management command failed."""

    def __init__(self, detail: str, exit_code: int | None) -> None:
        """`exit_code` is None if the command timed out."""
        super().__init__(detail)
        self.exit_code = exit_code


def run_command(spec: ProcessSpec, stop: StopSignals, timeout_s: float = 300.0) -> str:
    """Run a command and return its output. Raise CommandFailed with the output, or Interrupted on a signal."""
    start = spec.log.stat().st_size if spec.log and spec.log.exists() else 0
    process = Process(spec)
    try:
        code = process.wait(stop, timeout_s)
    finally:
        process.end()
    output = ""
    if spec.log is not None:
        with spec.log.open("rb") as log:
            log.seek(start)
            output = log.read().decode(errors="replace").strip()
    if code != 0:
        raise CommandFailed(f"the {spec.name} {process.describe_end()}.\n{output}".rstrip(), code)
    return output


def capture(
    args: Sequence[str], stop: StopSignals, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a short program and return its output. Raise Interrupted on a signal, which also ends the program."""
    with subprocess.Popen(
        args,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        while True:
            try:
                output, errors = process.communicate(timeout=_POLL_S)
            except subprocess.TimeoutExpired:
                if stop.count:
                    _end_captured(process)
                    raise Interrupted from None
            else:
                return subprocess.CompletedProcess(args, process.returncode, output, errors)


def _end_captured(process: "subprocess.Popen[bytes]") -> None:
    # First SIGTERM, on which git removes its lock files.
    _signal_group(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_CAPTURED_GRACE_S)
    _signal_group(process.pid, signal.SIGKILL)


def last_lines(log: Path | None, count: int) -> str:
    if log is None or not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 16384))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-count:])


def _signal_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _open_log(path: Path) -> int:
    """Open a log for appending. Rotate it first if it is larger than _LOG_MAX_BYTES."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > _LOG_MAX_BYTES:
        path.replace(path.with_name(path.name + ".1"))
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
