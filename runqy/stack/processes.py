"""Start and stop one process of a stack. When the supervisor is killed, Linux ends the processes that it started."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from runqy.errors import StackFailed
from runqy.stack.locks import FileLock
from runqy.stack.process_specs import ProcessSpec
from runqy.stack.stop_signals import Interrupted, StopSignals
from workers.deploy.exec_child import launcher_command, launcher_environment

_LOG_MAX_BYTES = 10 << 20
_POLL_S = 0.05
_CAPTURED_GRACE_S = 5.0


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
