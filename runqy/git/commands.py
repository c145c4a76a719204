"""Run git and the other programs of a deployment, with a time limit, until stopped."""

import contextlib
import errno
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from runqy import clock
from runqy.errors import DeploymentFailed, DeploymentStopped

REPORTED_CHARS = 2_000
MAX_PROMPTS = 16
"""How often a program can read its secret: git prompts once a process, and a partial clone fetches in several."""
PIPE_BYTES = 16_384
"""The least that a pipe buffers without a reader."""
LAST_OUTPUT_S = 1.0
"""How long output is read after a program has ended."""


class CommandTimedOut(DeploymentFailed):
    """The program did not finish in time."""


class CommandMissing(DeploymentFailed):
    """The program is not installed."""


class CommandRunner:
    """Runs the programs of one deployment one after another; `stop` ends the current one from another thread."""

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
    ) -> str:
        """Run a program, through a launcher if there is one, and return its output.

        The program can read the secret, a line, up to MAX_PROMPTS times from the pipe in RUNQY_SECRET_FD.
        Raise DeploymentFailed with the end of its error output, DeploymentStopped after `stop`.
        """
        with self._lock, _secret_pipe(secret) as pipe:
            self.check()
            self._current = process = _start([*launcher, *args], env, cwd, pipe)
        try:
            output, errors = _await(process, timeout_s)
        except subprocess.TimeoutExpired:
            _kill_group(process)
            process.wait()
            raise CommandTimedOut(f"{_name(args)} did not finish within {timeout_s:g} s") from None
        finally:
            _close_pipes(process)
            with self._lock:
                self._current = None
        self.check()
        if process.returncode:
            raise DeploymentFailed(f"{_name(args)} failed: {self._readable(errors or output, process.returncode)}")
        return output.decode(errors="replace")

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

    def _readable(self, output: bytes, code: int) -> str:
        """Return the end of a program's output, secrets removed."""
        text = output.decode(errors="replace").strip()
        for secret in self._secrets:
            text = text.replace(secret, "****")
        cause = "the disk is full: " if os.strerror(errno.ENOSPC) in text else ""
        return cause + text[-REPORTED_CHARS:] or f"exit status {code}"


@contextmanager
def _secret_pipe(secret: str) -> Iterator[int | None]:
    """Give the read end of a pipe that contains a secret; None without one."""
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
    """Start a program in a session of its own, so that its process group can be killed."""
    try:
        return subprocess.Popen(
            args,
            env=dict(env) if pipe is None else {**env, "RUNQY_SECRET_FD": str(pipe)},
            pass_fds=() if pipe is None else (pipe,),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise CommandMissing(f"{args[0]} is not installed") from error
    except OSError as error:
        raise DeploymentFailed(f"{args[0]} cannot be started: {error.strerror}") from error


def _await(process: "subprocess.Popen[bytes]", timeout_s: float) -> tuple[bytes, bytes]:
    """Return the output of a program. Raise subprocess.TimeoutExpired.

    A process that it leaves behind, as ssh does, may keep the pipes open forever, and is not waited for.
    """
    end_s = clock.monotonic_s() + timeout_s
    while True:
        has_ended = process.poll() is not None
        left_s = max(end_s - clock.monotonic_s(), 0)
        try:
            return process.communicate(timeout=min(LAST_OUTPUT_S, left_s))
        except subprocess.TimeoutExpired as unfinished:
            if has_ended:
                return unfinished.output or b"", unfinished.stderr or b""
            if left_s <= LAST_OUTPUT_S and process.poll() is None:
                raise


def _close_pipes(process: "subprocess.Popen[bytes]") -> None:
    """Close a program's output, which another process may still write to."""
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a program and its children."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _name(args: Sequence[str]) -> str:
    """Return a command's name for errors: the program and its verb."""
    verb = next((arg for arg in args[1:] if re.fullmatch("[a-z][a-z-]*", arg)), "")
    return f"{Path(args[0]).name} {verb}".rstrip()
