"""Keeps the processes of a stack running, and ends them in reverse order."""

from collections.abc import Callable

from runqy import clock
from runqy.errors import StackFailed
from runqy.local.processes import Process, Program, last_lines
from runqy.local.stop_signals import StopSignals

FIRST_PAUSE_S = 0.5
MAX_PAUSE_S = 30.0
STEADY_S = 60.0
"""A process that ran this long has its earlier ends forgiven."""
MAX_ENDS = 5
"""After so many ends, each soon after the start, no further one is reported."""
_LOOK_S = 0.5


class Supervised:
    """A program and its present process."""

    def __init__(self, program: Program, process: Process) -> None:
        self.program = program
        self.process = process
        self.ends = 0
        self.restart_at = 0.0


class Supervisor:
    """Starts programs one after another; all that were started are ended by `stop`, the last one first."""

    def __init__(self, stop: StopSignals, tell: Callable[[str], None]) -> None:
        """Take the signals to heed, and what to tell people with."""
        self._stop = stop
        self._tell = tell
        self._supervised: list[Supervised] = []

    @property
    def names(self) -> list[str]:
        """Return what runs, in the order in which it will be ended."""
        return [one.program.name for one in reversed(self._supervised)]

    def start(self, program: Program, is_ready: Callable[[], bool] = lambda: True, timeout_s: float = 60.0) -> Process:
        """Start a program, wait until it is ready, and from then on restart it when it ends by itself.

        Raises StackFailed when it ends or takes too long before it is ready, StopAsked when a signal comes first.
        """
        process = Process(program)
        self._supervised.append(Supervised(program, process))
        deadline = clock.monotonic_s() + timeout_s
        while not is_ready():
            if process.poll() is not None:
                raise StackFailed(_with_log(f"the {program.name} {process.describe_end()}.", program))
            if clock.monotonic_s() > deadline:
                raise StackFailed(_with_log(f"the {program.name} is not ready after {timeout_s:.0f} s.", program))
            self._stop.sleep(0.05)
        return process

    def wait_until(self, is_so: Callable[[], bool], timeout_s: float) -> bool:
        """Look after the processes until something is so, at most that long. Returns whether it is.

        Raises StopAsked when a signal comes first.
        """
        deadline = clock.monotonic_s() + timeout_s
        while not is_so():
            if clock.monotonic_s() > deadline:
                return False
            self._stop.sleep(0.2)
            self.look()
        return True

    def run(self) -> None:
        """Look after the processes until a signal asks for the end."""
        while not self._stop.wait(_LOOK_S):
            self.look()

    def look(self) -> None:
        """Restart what has ended, after a pause that grows, however often: the other processes serve on meanwhile."""
        now = clock.monotonic_s()
        for one in self._supervised:
            if one.restart_at:
                if now >= one.restart_at:
                    one.restart_at = 0.0
                    one.process = Process(one.program)
            elif one.process.poll() is not None:
                self._note_end(one, now)

    def _note_end(self, one: Supervised, now: float) -> None:
        """Plan the restart of a process that ended by itself."""
        if now - one.process.started_at > STEADY_S:
            one.ends = 0
        one.ends += 1
        how = f"the {one.program.name} {one.process.describe_end()}"
        one.process.end()  # what it started itself must not stand in the way of the next one
        pause_s = min(FIRST_PAUSE_S * 2 ** (one.ends - 1), MAX_PAUSE_S)
        one.restart_at = now + pause_s
        if one.ends < MAX_ENDS:
            self._tell(f"{how}; it is started again in {pause_s:g} s.")
        elif one.ends == MAX_ENDS:
            again = f"for the {one.ends}th time. It is tried on, {MAX_PAUSE_S:g} s apart at most; all else goes on."
            self._tell(_with_log(f"{how}, {again}", one.program))

    def stop(self) -> None:
        """End all processes, the last started first; a second signal makes it quick."""
        for one in self._supervised:
            one.process.say_farewell()
        while self._supervised:
            one = self._supervised.pop()
            one.process.end(self._stop)


def _with_log(what: str, program: Program) -> str:
    """Return what happened, with the last words of the process."""
    return f"{what}\n{last_lines(program.log)}".rstrip()
