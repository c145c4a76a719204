"""One child process: its start, its line protocol, and the end of its process group."""

import asyncio
import contextlib
import os
import shlex
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import structlog

from runqy import clock
from runqy.broker.tasks.archive_reasons import ErrorClass
from runqy.core.concurrency.processes import find_exhausted, os_failures, start_process
from runqy.errors import DeploymentFailed
from workers.deploy.exec_child import launcher_command, launcher_environment
from workers.runtime.logs import ChildLog
from workers.runtime.pipes import LineSplitter, LongLine, PipeReader, PipeWriter
from workers.runtime.protocol import (
    MAX_LINE_BYTES,
    BatchResponse,
    ChildLine,
    ChildResponse,
    ChunkLine,
    InvalidResponse,
    LogLine,
    ProgressReport,
    Ready,
    begins_as_response,
    decode_response,
    read_long_batch,
    read_long_chunk,
    read_ready,
    read_task_id,
)
from workers.runtime.startup_limits import StartupLimits, memory_bytes
from workers.runtime.task_lines import encode_cancel

CANCEL_GRACE_S = 2.0
"""The time from the cancel line to SIGTERM, for children that accept cancel."""
TERM_GRACE_S = 5.0
"""The time from SIGTERM to SIGKILL, unless `ChildSpec.termination_grace_s` applies."""
KILL_GRACE_S = 3.0
"""How long the launcher may take to kill a child and its descendants before the worker kills the process group."""
CLOSED_STDOUT_GRACE_S = 2.0
"""How long a child that closed its stdout may take to exit. It cannot respond any more."""
NOT_STARTED = "the child process cannot be started"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """How to start a child."""

    startup_cmd: str
    code_dir: Path
    env: Mapping[str, str] = field(repr=False)
    commit: str = ""
    release: int = 0
    """The number of the release that it runs; 0 without one."""
    generation: str = ""
    """Changes when children are to be replaced by others with the same code and environment."""
    is_isolated: bool = True
    """Prevent the child from reading and signalling other processes, if the kernel has Landlock."""
    hides_output: bool = False
    """Keep what the child prints once it is ready out of logs and error texts, because it may be payloads."""
    startup_timeout_s: float = 1800.0
    startup_silence_s: float = 0.0
    """How long the child may neither print nor use CPU before it is ready; 0: no limit."""
    max_concurrency: int = 0
    """How many tasks, or batches, the child may have at once; 0: what it announces."""
    termination_grace_s: float = 1.0
    """For a child that does not accept cancel: the time from the early end of a run to SIGTERM, and from there to
    SIGKILL."""

    def starts_like(self, other: "ChildSpec") -> bool:
        """Return whether a child of this specification can stay when the other one is applied."""
        return replace(self, max_concurrency=other.max_concurrency, release=other.release) == other


class ChildOwner(Protocol):
    """The callbacks of a child."""

    def child_ready(self, child: "Child") -> None:
        """The child is ready for tasks."""

    def child_responded(self, child: "Child", response: ChildResponse | InvalidResponse) -> bool:
        """The child reports how a task ended. Return whether it has that task."""

    def child_progressed(self, child: "Child", report: ProgressReport) -> None:
        """The child reports the progress of a task."""

    def child_chunk(self, child: "Child", line: ChunkLine) -> None:
        """The child streams a part of a task's result."""

    def child_logged(self, child: "Child", line: LogLine) -> None:
        """The child reports what a task printed."""

    def child_printed(self, child: "Child", data: bytes, *, is_line: bool) -> None:
        """The child printed a line outside the protocol to stdout, or data to stderr."""

    def child_batch_responded(self, child: "Child", response: BatchResponse) -> None:
        """The child reports how the tasks of a batch ended."""

    def child_overflowed(self, child: "Child", task_id: str | None) -> None:
        """The child wrote a response above the limit, for this task if it begins with the id."""

    def child_ended(self, child: "Child") -> None:
        """The child and its process group have ended; see `cause`."""


class Child:
    """A running child. Belongs to the event loop it was started on."""

    def __init__(self, spec: ChildSpec, owner: ChildOwner) -> None:
        self.is_ready = False
        # What it announced with its ready line.
        self.ready = Ready()
        # The child is exiting and gets no more tasks.
        self.is_ending = False
        self.has_ended = False
        # Why the child did not start or had to be ended; empty if neither.
        self.problem = ""
        # Whether it did not start because the machine is out of resources.
        self.has_lacked_resources = False
        # How long the child took to become ready.
        self.startup_s = 0.0
        self._spec = spec
        self._owner = owner
        # What it used when that was last asked for, which heartbeats do.
        self._last_memory_bytes = 0
        self._loop = asyncio.get_running_loop()
        self._process, self._control_socket, (stdin, stdout, stderr) = _start(spec)
        self.pid = self._process.pid
        self._log = ChildLog(pid=self.pid)
        self._splitter = LineSplitter(MAX_LINE_BYTES)
        self._input = PipeWriter(stdin)
        self._output = PipeReader(stdout, self._read_output, self._handle_closed_stdout)
        self._errors = PipeReader(stderr, self._read_errors)
        self._startup = StartupLimits(pid=self.pid, timeout_s=spec.startup_timeout_s, silence_s=spec.startup_silence_s)
        self._timer = self._loop.call_later(self._startup.next_check_s, self._check_startup)
        # What ends the child if a cancelled task does not end. Keys are task ids.
        self._cancels: dict[str, asyncio.TimerHandle] = {}
        # The launcher has the other end. The kernel closes it when the launcher ends.
        self._loop.add_reader(self._control_socket, self._end)

    def send(self, line: bytes) -> None:
        self._input.write(line)

    def close_input(self) -> None:
        self._input.close_when_empty()

    def cancel_task(self, task_id: str) -> None:
        """Have the child cancel a task if it accepts that. Terminate the child if the task does not end soon."""
        if self.is_ending:
            return
        # No signal is sent at first. On SIGTERM or SIGINT a child of the released SDK finishes its task and exits, on
        # the second one it exits at once, and of a handler's exceptions it catches only `Exception`.
        if self.ready.accepts_cancel:
            self._input.write(encode_cancel(task_id))
            self._cancels[task_id] = self._loop.call_later(CANCEL_GRACE_S, self.terminate)
        else:
            grace_s = self._spec.termination_grace_s
            self._cancels[task_id] = self._loop.call_later(grace_s, self._terminate_task, task_id)

    def end_cancel(self, task_id: str) -> None:
        """Undo `cancel_task`: the task has ended, and the child continues."""
        if timer := self._cancels.pop(task_id, None):
            timer.cancel()

    def forget_output(self) -> None:
        """Leave what the child has printed out of `cause`."""
        self._log.forget()

    def retire(self, grace_s: float = TERM_GRACE_S) -> None:
        """Let a child without tasks exit by itself; terminate it if it does not."""
        self.is_ending = True
        self._input.close_when_empty()
        self._schedule(grace_s, self.terminate)

    def terminate(self, grace_s: float = TERM_GRACE_S) -> None:
        """Send SIGTERM to the process group, and kill it later."""
        self.is_ending = True
        self._input.close_when_empty()
        self._signal(signal.SIGTERM)
        self._schedule(grace_s, self.kill)

    def fail(self, problem: str) -> None:
        """End a child that does not keep to the protocol. This counts as its death."""
        if not self.is_ending:
            self._set_problem(problem)
            self.terminate()

    def kill(self) -> None:
        """Kill the child and all its descendants now."""
        self.is_ending = True
        if not self.has_ended:
            # The launcher then also kills descendants that left the process group.
            self._control_socket.shutdown(socket.SHUT_WR)
        self._schedule(KILL_GRACE_S, lambda: self._signal(signal.SIGKILL))

    @property
    def loading_since_s(self) -> float | None:
        """Return when the child was started, on the monotonic clock; None once it is ready or ending."""
        return None if self.is_ready or self.is_ending else self._startup.started_s

    @property
    def memory_bytes(self) -> int:
        """Return what it and its descendants use now; 0 if that is not known."""
        if self.has_ended:
            return 0
        used = memory_bytes(self.pid)
        self._last_memory_bytes = used or self._last_memory_bytes
        return used

    @property
    def has_failed(self) -> bool:
        """Return whether the child ended by itself or because of a problem, not only because the worker ended it."""
        return bool(self.problem) or not self.is_ending

    @property
    def cause(self) -> str:
        """Return why the child ended, with the last lines it printed.

        Those of one that was not ready name the files of its code relative to its folder, unlike those of packages.
        """
        cause = f"{self._how_it_ended}\n{self._log.tail}".rstrip()
        return cause if self.is_ready else _name_own_files(cause, self._spec.code_dir)

    @property
    def reason(self) -> str:
        """Return why the child ended, for the worker's record. What a ready child printed belongs to its tasks."""
        return self._how_it_ended if self.is_ready else self.cause

    @property
    def _how_it_ended(self) -> str:
        code = self._process.returncode
        if self.problem:
            return self.problem
        if code is not None and code < 0:
            return f"the child process was killed by {_signal_name(-code)}{self._likely_cause}"
        return f"the child process exited with status {code}"

    @property
    def error_class(self) -> ErrorClass:
        """Return the class of the error of the tasks that it ran when it ended."""
        if self.problem:
            return ErrorClass.PROCESS_DIED
        code = self._process.returncode
        return ErrorClass.PROCESS_KILLED if code is not None and code < 0 else ErrorClass.PROCESS_EXITED

    @property
    def _likely_cause(self) -> str:
        """Return what probably sent SIGKILL. The memory is on a line of its own: the first one makes a group."""
        if self._process.returncode != -signal.SIGKILL or self.is_ending:
            return ""
        used = f"\n[it used {self._last_memory_bytes >> 20:,} MiB when that was last measured]"
        return ": probably it, or the machine, ran out of memory" + (used if self._last_memory_bytes else "")

    def _set_problem(self, problem: str) -> None:
        """Keep the first problem: others follow from it."""
        self.problem = self.problem or problem

    def _schedule(self, seconds: float, step: Callable[[], object]) -> None:
        self._cancel_timers()
        if not self.has_ended:
            self._timer = self._loop.call_later(seconds, step)

    def _cancel_timers(self) -> None:
        for timer in (self._timer, *self._cancels.values()):
            timer.cancel()
        self._cancels.clear()

    def _signal(self, number: signal.Signals) -> None:
        """Signal the process group, whose id is valid until the child is waited for."""
        if not self.has_ended:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def _terminate_task(self, task_id: str) -> None:
        grace_s = self._spec.termination_grace_s
        log.info("child_terminated", child=self.pid, task_id=task_id, accepts_cancel=False, kill_after_s=grace_s)
        self.terminate(grace_s)

    def _check_startup(self) -> None:
        if problem := self._startup.check():
            self._set_problem(problem)
            self.kill()
        else:
            self._schedule(self._startup.next_check_s, self._check_startup)

    def _read_errors(self, data: bytes) -> None:
        if not self.is_ready:
            self._startup.record_output()
        self._log.feed(data)
        self._owner.child_printed(self, data, is_line=False)

    def _read_output(self, data: bytes) -> None:
        if not self.is_ready:
            self._startup.record_output()
        self._errors.read_available()  # what was printed before a response belongs to its task
        for line in self._splitter.feed(data):
            if isinstance(line, LongLine):
                self._handle_long_line(line)
                continue
            response = decode_response(line, self.ready) if line[:1] == b"{" or line.lstrip()[:1] == b"{" else None
            self._handle_response(line, response)

    def _handle_long_line(self, line: LongLine) -> None:
        self._log.add(line)
        # It is too long to be decoded.
        if self.ready.batch and (response := read_long_batch(line.start)):
            self._owner.child_batch_responded(self, response)
        elif self.ready.streams and (chunk := read_long_chunk(line.start)):
            self._owner.child_chunk(self, chunk)
        elif begins_as_response(line.start):
            self._owner.child_overflowed(self, read_task_id(line.start))
        else:
            self._owner.child_printed(self, b"[line too long to keep]", is_line=True)

    def _read_rest(self) -> None:
        """Handle the last line if it is unterminated: only a complete response counts."""
        if line := self._splitter.rest():
            response = decode_response(line, self.ready)
            is_response = isinstance(response, ChildResponse) and response.status != "ready"
            is_complete = is_response or (isinstance(response, BatchResponse) and response.is_valid)
            self._handle_response(line, response if is_complete else None)
        self._log.end()

    def _handle_response(self, line: bytes, response: ChildLine | None) -> None:
        if isinstance(response, ChildResponse) and response.status == "error" and self.is_ready:
            response = None  # Only a child that starts reports this status: a task has printed the line.
        if response is None:
            self._log.add(line)
            self._owner.child_printed(self, line, is_line=True)
        elif isinstance(response, ProgressReport):
            self._owner.child_progressed(self, response)
        elif isinstance(response, ChunkLine):
            self._owner.child_chunk(self, response)
        elif isinstance(response, LogLine):
            self._log.add(response.text)
            self._owner.child_logged(self, response)
        elif isinstance(response, BatchResponse):
            self._owner.child_batch_responded(self, response)
        elif isinstance(response, ChildResponse) and response.task_id is None:
            self._read_status(response)
        elif not self._owner.child_responded(self, response) and isinstance(response, InvalidResponse):
            self._log.add(line)

    def _handle_closed_stdout(self) -> None:
        # Most children that close their stdout are about to exit: they get a moment to do so.
        if not self.is_ending:
            self._schedule(CLOSED_STDOUT_GRACE_S, self._kill_after_closed_stdout)

    def _kill_after_closed_stdout(self) -> None:
        self.fail("the child process closed its standard output")

    def _read_status(self, response: ChildResponse) -> None:
        if response.status == "error":
            self._set_problem(f"the child process could not start: {response.error_text}")
        elif response.status == "ready" and not self.is_ready and not self.problem:
            try:
                self.ready = read_ready(response)
            except ValueError as error:
                self._set_problem(f"the child process could not start: {error}")
                self.kill()
                return
            self.is_ready = True
            self._timer.cancel()
            if self._spec.hides_output:
                self._log.mute()
            self.startup_s = clock.monotonic_s() - self._startup.started_s
            self._owner.child_ready(self)

    def _set_start_failure(self, number: int) -> None:
        """Keep why the launcher could not start the program: no code of the release has run."""
        exhausted = find_exhausted(number)
        self.has_lacked_resources = bool(exhausted)
        self._set_problem(f"{NOT_STARTED}: {exhausted or os.strerror(number)}")

    def _end(self) -> None:
        """Clean up after the process, whose end closed the control socket."""
        self._loop.remove_reader(self._control_socket)
        if number := self._control_socket.recv(1):
            self._set_start_failure(number[0])
        self._signal(signal.SIGKILL)
        # A child may have written its last response just before it ended.
        self._output.drain()
        self._errors.drain()
        self._read_rest()
        # Not before: what was read may have been a reason to kill it.
        self._control_socket.close()
        self._input.close()
        self._cancel_timers()
        # Waited for only now: until then the kernel keeps the process group's id, and `_signal` reaches no other group.
        self._process.wait()
        self.has_ended = True
        self._owner.child_ended(self)


def _start(spec: ChildSpec) -> "tuple[subprocess.Popen[bytes], socket.socket, list[int]]":
    """Start the program without a shell, in a session of its own. Raise DeploymentFailed, ResourcesExhausted.

    Also return its control socket and our ends of its pipes. Closing the socket ends the program. It becomes readable
    when the program has ended.
    """
    try:
        program = shlex.split(spec.startup_cmd)
    except ValueError as error:
        raise DeploymentFailed(f"startup_cmd is invalid: {error}") from error
    if not program:
        raise DeploymentFailed("startup_cmd is empty")
    with os_failures(NOT_STARTED), ExitStack() as on_failure:
        inherited, control_socket = socket.socketpair()
        on_failure.enter_context(control_socket)
        with inherited:
            process, pipes = start_process(
                [*launcher_command(is_isolated=spec.is_isolated, control_fd=inherited.fileno()), *program],
                pipes=("stdin", "stdout", "stderr"),
                cwd=spec.code_dir,
                env=launcher_environment(spec.env),
                start_new_session=True,
                pass_fds=(inherited.fileno(),),
            )
        on_failure.pop_all()
    return process, control_socket, pipes


def _name_own_files(text: str, folder: Path) -> str:
    """Make the files in a folder relative in tracebacks. Python writes them as absolute, and without symbolic links."""
    for absolute in {folder, folder.resolve()}:
        text = text.replace(f'File "{absolute}{os.sep}', 'File "')
    return text


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
