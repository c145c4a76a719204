"""Starts and ends one process of a stack, in a session of its own, so that Ctrl-C reaches only the supervisor."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from runqy.local.locks import FileLock, is_held, read_note
from runqy.local.stop_signals import StopSignals

_LOG_MAX_BYTES = 10 << 20
_LOOK_S = 0.05
_HURRIED_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What to start, and how long it may take to end."""

    name: str
    args: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    lock: Path
    """Held by the process and its own children for as long as any of them lives; the pid is noted in it."""
    log: Path | None = None
    """Where its output goes; None: where the supervisor's goes."""
    grace_s: float = 10.0
    """How long it may take to end after SIGTERM."""
    farewell: signal.Signals | None = None
    """Sent when the stack begins to stop, which may be long before its turn comes."""


class Process:
    """A started program."""

    def __init__(self, program: Program) -> None:
        """Start it. Raises LockHeld while an earlier one lives."""
        self.program = program
        self.started_at = time.monotonic()
        lock = FileLock(program.lock)
        log = None if program.log is None else _open_log(program.log)
        try:
            self._popen = subprocess.Popen(
                program.args,
                env=dict(program.env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=[lock.fd],
            )
            lock.note(str(self._popen.pid))
        finally:
            lock.close()
            if log is not None:
                os.close(log)

    @property
    def pid(self) -> int:
        """Return the process id, which is its session's and group's too."""
        return self._popen.pid

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal, or None while it runs."""
        return self._popen.poll()

    def wait(self, stop: StopSignals, timeout_s: float) -> int | None:
        """Wait for the end, at most that long. Raises StopAsked when a signal comes first."""
        deadline = time.monotonic() + timeout_s
        while self.poll() is None and time.monotonic() < deadline:
            stop.sleep(_LOOK_S)
        return self.poll()

    def say_farewell(self) -> None:
        """Let it know that the end has begun, if it wants to know."""
        if self.program.farewell is not None and self.poll() is None:
            self._popen.send_signal(self.program.farewell)

    def end(self, stop: StopSignals | None = None) -> None:
        """Ask it to end, again when a second signal comes, and kill it and its group when it takes too long."""
        is_hurried = False
        deadline = time.monotonic() + self.program.grace_s
        if self.poll() is None:
            self._popen.terminate()
        while self.poll() is None and time.monotonic() < deadline:
            if stop is not None and stop.count > 1 and not is_hurried:
                self._popen.terminate()  # a worker then gives its tasks back instead of letting them end
                is_hurried, deadline = True, min(deadline, time.monotonic() + _HURRIED_S)
            time.sleep(_LOOK_S)
        end_group(self.program.lock, grace_s=0)
        self._popen.wait()

    def describe_end(self) -> str:
        """Return how it ended, in words."""
        code = self.poll()
        if code is None:
            return "still runs"
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def end_group(lock: Path, *, grace_s: float) -> bool:
    """End the process that holds a lock, and its children, also those that an earlier supervisor left behind.

    The pid noted in the file cannot mean another process as long as the lock is held: it names the group of whoever
    inherited the lock, and the kernel gives no number of a living group away. Returns whether all are gone.
    """
    for number, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 5.0)):
        if not is_held(lock):
            return True
        if number is signal.SIGTERM and not grace_s:
            continue
        _signal_group(read_note(lock), number)
        deadline = time.monotonic() + patience_s
        while is_held(lock) and time.monotonic() < deadline:
            time.sleep(_LOOK_S)
    return not is_held(lock)


def last_lines(log: Path | None, count: int = 15) -> str:
    """Return the end of a log, to show why something failed."""
    if log is None or not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 16384))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-count:])


def _signal_group(pid: str, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError, ValueError):
        os.killpg(int(pid), number)


def _open_log(path: Path) -> int:
    """Open a log for appending; one that has grown large is set aside first."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > _LOG_MAX_BYTES:
        path.replace(path.with_name(path.name + ".1"))
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
