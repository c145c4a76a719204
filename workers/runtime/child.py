"""One child process: its start, its two-way line protocol, and the end of its whole process group."""

import asyncio
import contextlib
import contextvars
import os
import shlex
import signal
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from runqy.errors import DeploymentFailed
from workers.deploy.isolation import launcher
from workers.runtime.child_log import ChildLog
from workers.runtime.pipes import TOO_LONG, LineSplitter, PipeReader, PipeWriter
from workers.runtime.protocol import MAX_LINE_BYTES, ChildResponse, InvalidResponse, decode_response, encode_cancel

CANCEL_GRACE_S = 2.0
"""How long a child has to cancel a task before it is terminated."""
TERM_GRACE_S = 5.0
"""How long a child that was terminated has before it is killed."""
KILL_GRACE_S = 3.0
"""How long the launcher has to kill a child and its descendants before the process group is killed."""
CLOSED_STDOUT_GRACE_S = 2.0
"""How long a child that closed its stdout has to end: it cannot respond any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """How a child is started."""

    startup_cmd: str
    code_dir: Path
    env: Mapping[str, str] = field(repr=False)
    is_isolated: bool = True
    """Keep it from reading and signalling other processes, where the kernel can."""
    startup_timeout_s: float = 60.0


class ChildOwner(Protocol):
    """Is called back by a child."""

    def child_ready(self, child: "Child") -> None:
        """It has loaded and takes tasks."""

    def child_responded(self, child: "Child", response: ChildResponse | InvalidResponse) -> bool:
        """It reports how a task ended; return whether it has that task."""

    def child_overflowed(self, child: "Child") -> None:
        """It wrote a longer line than is allowed, so that a response may be missing."""

    def child_ended(self, child: "Child") -> None:
        """It and its process group are gone; see `cause`."""


class Child:
    """A running child. Belongs to the event loop it was started in."""

    def __init__(self, spec: ChildSpec, owner: ChildOwner) -> None:
        self.is_ready = False
        self.is_ending = False
        """It was asked to end and gets no more tasks."""
        self.has_ended = False
        self.problem = ""
        """Why it did not start or had to be ended; empty if neither."""
        self._spec = spec
        self._owner = owner
        self._accepts_cancel = False
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self._process, self._lifeline = _start(spec)
        """The descriptor that is open as long as the child may run; -1: closed."""
        self.pid = self._process.pid
        self._log = ChildLog(pid=self.pid)
        self._splitter = LineSplitter(MAX_LINE_BYTES)
        self._input = PipeWriter(_take_descriptor(self._process.stdin))
        self._output = PipeReader(_take_descriptor(self._process.stdout), self._read_output, self._note_closed_stdout)
        self._errors = PipeReader(_take_descriptor(self._process.stderr), self._log.feed)
        self._timer = self._loop.call_later(spec.startup_timeout_s, self._give_up_start)
        threading.Thread(target=self._wait_for_exit, name=f"child-{self.pid}", daemon=True).start()

    def send(self, line: bytes) -> None:
        """Send the child a task."""
        self._input.write(line)

    def close_input(self) -> None:
        """Close the child's stdin once everything is written."""
        self._input.close_when_empty()

    def cancel_task(self, task_id: str) -> None:
        """Have the child cancel a task if it accepts that, else terminate it, then kill it."""
        if not self._accepts_cancel:
            self.terminate()
            return
        self._input.write(encode_cancel(task_id))
        self._schedule(CANCEL_GRACE_S, self.terminate)

    def keep_running(self) -> None:
        """Undo `cancel_task`: the child has given the task up by itself."""
        if not self.is_ending:
            self._timer.cancel()

    def retire(self, grace_s: float = TERM_GRACE_S) -> None:
        """Let a child without tasks exit by itself, or else terminate it."""
        self.is_ending = True
        self._input.close_when_empty()
        self._schedule(grace_s, self.terminate)

    def terminate(self) -> None:
        """Send SIGTERM to the process group, and kill it later."""
        self.is_ending = True
        self._input.close_when_empty()
        self._signal(signal.SIGTERM)
        self._schedule(TERM_GRACE_S, self.kill)

    def kill(self) -> None:
        """Kill the child and all that descends from it now."""
        self.is_ending = True
        self._close_lifeline()  # the launcher kills more than the group
        self._schedule(KILL_GRACE_S, lambda: self._signal(signal.SIGKILL))

    @property
    def cause(self) -> str:
        """Return why the child ended, with the last lines it printed."""
        code = self._process.returncode
        if self.problem:
            reason = self.problem
        elif code is not None and code < 0:
            reason = f"the child process was killed by {_signal_name(-code)}"
        else:
            reason = f"the child process exited with status {code}"
        return f"{reason}\n{self._log.tail}".rstrip()

    def _schedule(self, seconds: float, step: "Step") -> None:
        """Do a step later, instead of the one that was scheduled."""
        self._timer.cancel()
        if not self.has_ended:
            self._timer = self._loop.call_later(seconds, step)

    def _signal(self, number: signal.Signals) -> None:
        """Signal the whole group, which exists as long as the child was not waited for."""
        if not self.has_ended:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def _close_lifeline(self) -> None:
        lifeline, self._lifeline = self._lifeline, -1
        if lifeline >= 0:
            os.close(lifeline)

    def _give_up_start(self) -> None:
        self.problem = f"the child process was not ready within {self._spec.startup_timeout_s:g} s"
        self.kill()

    def _read_output(self, data: bytes) -> None:
        """Act on the lines that the child wrote to stdout; what is not of the protocol is logged."""
        for line in self._splitter.feed(data):
            if not isinstance(line, bytes):
                self._log.add("[a line too long for the protocol]" if line is TOO_LONG else line)
                self._owner.child_overflowed(self)
                continue
            response = decode_response(line) if line[:1] == b"{" or line.lstrip()[:1] == b"{" else None
            self._act_on(line, response)

    def _read_rest(self) -> None:
        """Act on the last line, which was not ended: only a complete response counts."""
        if line := self._splitter.rest():
            response = decode_response(line)
            is_complete = isinstance(response, ChildResponse) and response.status != "ready"
            self._act_on(line, response if is_complete else None)
        self._log.end()

    def _act_on(self, line: bytes, response: ChildResponse | InvalidResponse | None) -> None:
        """Act on a line of the protocol, or log it."""
        if response is None:
            self._log.add(line)
        elif isinstance(response, ChildResponse) and response.task_id is None:
            self._read_status(response)
        elif not self._owner.child_responded(self, response) and isinstance(response, InvalidResponse):
            self._log.add(line)

    def _note_closed_stdout(self) -> None:
        """End a child that goes on without stdout; most that close it are about to exit."""
        if not self.is_ending:
            self._schedule(CLOSED_STDOUT_GRACE_S, self._give_up_closed_stdout)

    def _give_up_closed_stdout(self) -> None:
        self.problem = self.problem or "the child process closed its standard output"
        self.terminate()

    def _read_status(self, response: ChildResponse) -> None:
        """Act on a line about the start."""
        if response.status == "error":
            self.problem = self.problem or f"the child process could not start: {response.error_text}"
        elif response.status == "ready" and not self.is_ready and not self.problem:
            self.is_ready = True
            self._accepts_cancel = "cancel" in (response.accepts or ())
            self._timer.cancel()
            self._owner.child_ready(self)

    def _wait_for_exit(self) -> None:
        """Wait for the process on a thread, leaving it unreaped, so that its group's number stays taken."""
        if hasattr(os, "waitid"):
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        else:
            self._process.wait()
        with contextlib.suppress(RuntimeError):  # the loop is closed when the worker itself ends
            self._loop.call_soon_threadsafe(self._end, context=self._context)

    def _end(self) -> None:
        """Clean up after the process: its group, its last output, its pipes."""
        self._signal(signal.SIGKILL)
        self._output.drain()
        self._errors.drain()
        self._read_rest()
        self._input.close()
        self._close_lifeline()
        self._timer.cancel()
        self._process.wait()
        self.has_ended = True
        self._owner.child_ended(self)


class Step(Protocol):
    """Something to be done later."""

    def __call__(self) -> None: ...


def _start(spec: ChildSpec) -> "tuple[subprocess.Popen[bytes], int]":
    """Start the program without a shell, in a session of its own. Raises DeploymentFailed.

    Return also the descriptor that has to stay open as long as the program may run.
    """
    try:
        program = shlex.split(spec.startup_cmd)
    except ValueError as error:
        raise DeploymentFailed(f"startup_cmd cannot be read: {error}") from error
    if not program:
        raise DeploymentFailed("startup_cmd is empty")
    inherited, lifeline = os.pipe()
    try:
        process = subprocess.Popen(
            [*launcher(is_isolated=spec.is_isolated, lifeline=inherited), *program],
            cwd=spec.code_dir,
            env=dict(spec.env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
            pass_fds=(inherited,),
        )
    except OSError as error:
        os.close(lifeline)
        raise DeploymentFailed(f"the child process cannot be started: {error.strerror}") from error
    finally:
        os.close(inherited)
    return process, lifeline


def _take_descriptor(stream: object) -> int:
    """Return a pipe's descriptor, and close its file object."""
    descriptor: int = os.dup(stream.fileno())  # type: ignore[attr-defined]
    stream.close()  # type: ignore[attr-defined]
    return descriptor


def _signal_name(number: int) -> str:
    """Return SIGKILL for 9."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
