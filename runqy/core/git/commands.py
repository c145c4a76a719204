"""Run git and the other programs of a deployment, with limits, until stopped."""

import contextlib
import errno
import os
import re
import selectors
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from runqy import clock
from runqy.core.concurrency.processes import find_exhausted_in, os_failures, start_process
from runqy.core.formats import sizes
from runqy.core.git.limits import NO_LIMITS, DiskUsage, Limits
from runqy.errors import DeploymentFailed, DeploymentStopped, ResourcesExhausted

REPORTED_CHARS = 2_000
KEPT_BYTES = 2 << 20
"""How much of a program's output is kept, and how much of its errors: the end of each."""
MAX_PROMPTS = 16
"""How often a program can read its secret. Each git process prompts once, and a partial clone runs several."""
PIPE_BYTES = 16_384
"""The least that a pipe buffers without a reader."""
LAST_OUTPUT_S = 1.0
"""How long output is read after a program has ended."""
POLL_S = 0.25
READ_BYTES = 64 << 10
NOT_FOUND = 127
"""The exit status of a shell or launcher that did not find the program."""


class CommandTimedOut(DeploymentFailed):
    """The program did not finish in time."""


class CommandMissing(DeploymentFailed):
    """The program is not installed."""


class LimitExceeded(DeploymentFailed):
    """The program needs more memory or disk than it may use, or prints too much."""


class CommandRunner:
    """Runs the programs of one deployment, one after another. `stop` ends the current one from another thread."""

    def __init__(self, *, secrets: Sequence[str] = ()) -> None:
        self._secrets = [secret for secret in secrets if secret]
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._current: subprocess.Popen[bytes] | None = None

    def run(  # noqa: PLR0913 (what a program is run with)
        self,
        args: Sequence[str],
        *,
        env: Mapping[str, str],
        timeout_s: float,
        cwd: Path | None = None,
        secret: str = "",
        launcher: Sequence[str] = (),
        limits: Limits = NO_LIMITS,
    ) -> str:
        """Run a program, through a launcher if there is one, and return its output.

        The program can read the secret, as a line, up to MAX_PROMPTS times from the pipe whose number is in
        RUNQY_SECRET_FD. Raise DeploymentFailed with the end of its error output, DeploymentStopped after `stop`, and
        ResourcesExhausted if it, or this process, found the machine out of resources.
        """
        name, usage = _name(args), DiskUsage(limits)
        with os_failures(f"{name} cannot be run"):
            # Under the lock: `stop` either finds the program or is seen by `check`, so none outlives it.
            with self._lock, _secret_pipe(secret) as pipe:
                self.check()
                self._current = process = _start([*limits.launcher, *launcher, *args], env, cwd, pipe)
            try:
                output, errors = _await(process, name, timeout_s, usage)
            finally:
                if process.returncode is None:
                    _kill_group(process)
                    process.wait()
                _close_pipes(process)
                usage.close()
                with self._lock:
                    self._current = None
            is_too_large = process.returncode == 0 and usage.is_exceeded_now()
        self.check()
        if process.returncode == NOT_FOUND:
            raise CommandMissing(f"{args[0]} is not installed")
        if process.returncode:
            reason = self._readable(errors.data or output.data, process.returncode)
            if exhausted := find_exhausted_in(reason, has_memory_limit=limits.memory_bytes is not None):
                raise ResourcesExhausted(f"{name} failed: {exhausted}: {reason}")
            if exceeded := limits.find_exceeded(reason):
                raise LimitExceeded(f"{name} {exceeded}: {reason}")
            raise DeploymentFailed(f"{name} failed: {reason}")
        if is_too_large:
            raise LimitExceeded(f"{name} {limits.too_large}")
        if output.is_cut:
            raise LimitExceeded(f"{name} prints more than {sizes.humanize(KEPT_BYTES)}")
        return output.data.decode(errors="replace")

    def check(self) -> None:
        """Raise DeploymentStopped after `stop`."""
        if self._stopped.is_set():
            raise DeploymentStopped

    def wait(self, seconds: float) -> None:
        """Sleep. Raise DeploymentStopped on `stop`."""
        self._stopped.wait(seconds)
        self.check()

    def stop(self) -> None:
        """Kill the current program and refuse further ones."""
        with self._lock:
            self._stopped.set()
            if self._current is not None:
                _kill_group(self._current)

    def _readable(self, output: bytearray, code: int) -> str:
        """Return the end of a program's output, without secrets."""
        text = output.decode(errors="replace").strip()
        for secret in self._secrets:
            text = text.replace(secret, "****")
        cause = "the disk is full: " if os.strerror(errno.ENOSPC) in text else ""
        return cause + text[-REPORTED_CHARS:] or f"exit status {code}"


@contextmanager
def _secret_pipe(secret: str) -> Iterator[int | None]:
    """Give the read end of a pipe with the secret in it; None if there is no secret."""
    if not secret:
        yield None
        return
    line = f"{secret}\n".encode()
    reader, writer = os.pipe()
    with open(reader, "rb", buffering=0):
        with open(writer, "wb", buffering=0) as end:
            end.write(line * max(1, min(MAX_PROMPTS, PIPE_BYTES // len(line))))
        yield reader


def _start(args: Sequence[str], env: Mapping[str, str], cwd: Path | None, pipe: int | None) -> subprocess.Popen[bytes]:
    try:
        process, (output, errors) = start_process(
            args,
            pipes=("stdout", "stderr"),
            env=dict(env) if pipe is None else {**env, "RUNQY_SECRET_FD": str(pipe)},
            pass_fds=() if pipe is None else (pipe,),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            # A session of its own, so that `_kill_group` ends its children too.
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise CommandMissing(f"{args[0]} is not installed") from error
    process.stdout, process.stderr = FileIO(output), FileIO(errors)
    return process


class _Printed:
    """The end of what a program prints."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.is_cut = False

    def add(self, data: bytes) -> None:
        self.data += data
        if len(self.data) > KEPT_BYTES:
            self.is_cut = True
            del self.data[:-KEPT_BYTES]


def _await(
    process: "subprocess.Popen[bytes]", name: str, timeout_s: float, usage: DiskUsage
) -> tuple[_Printed, _Printed]:
    """Return what a program printed, and its errors. Raise CommandTimedOut, LimitExceeded.

    Processes that it leaves behind, as ssh does, may keep the pipes open for ever. They are not waited for.
    """
    end_s = clock.monotonic_s() + timeout_s
    output, errors = _Printed(), _Printed()
    with selectors.DefaultSelector() as selector:
        for pipe, printed in ((process.stdout, output), (process.stderr, errors)):
            assert pipe is not None  # noqa: S101 (made by `_start`)
            selector.register(pipe, selectors.EVENT_READ, printed)
        has_ended = False
        while selector.get_map() or not has_ended:
            if not has_ended and process.poll() is not None:
                has_ended, end_s = True, clock.monotonic_s() + LAST_OUTPUT_S
            if clock.monotonic_s() >= end_s:
                if has_ended:
                    break
                raise CommandTimedOut(f"{name} did not finish within {timeout_s:g} s")
            if not has_ended and usage.is_exceeded():
                raise LimitExceeded(f"{name} {usage.limits.too_large}")
            _read(selector, process, min(POLL_S, end_s - clock.monotonic_s()))
    return output, errors


def _read(selector: selectors.BaseSelector, process: "subprocess.Popen[bytes]", timeout_s: float) -> None:
    """Wait for output and read it once. If a program has closed its output, wait for its end."""
    if not selector.get_map():
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout_s)
    for key, _ in selector.select(timeout_s) if selector.get_map() else ():
        if data := os.read(key.fd, READ_BYTES):
            key.data.add(data)
        else:
            selector.unregister(key.fileobj)


def _close_pipes(process: "subprocess.Popen[bytes]") -> None:
    # A process that was left behind may still write to them.
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _name(args: Sequence[str]) -> str:
    """Return a command's name for errors: the program and its verb."""
    verb = next((arg for arg in args[1:] if re.fullmatch("[a-z][a-z-]*", arg)), "")
    return f"{Path(args[0]).name} {verb}".rstrip()
