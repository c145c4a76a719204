"""Keep the processes of a stack running, and stop them in reverse order."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from runqy import clock
from runqy.errors import StackFailed
from runqy.stack.processes import Process, ProcessSpec, last_lines
from runqy.stack.stop_signals import StopSignals

FIRST_PAUSE_S = 0.5
MAX_PAUSE_S = 30.0
STEADY_S = 60.0
"""After a run of this length, the count of ends is reset."""
MAX_ENDS = 5
"""Further ends in a row are not reported."""
_POLL_S = 0.5


@dataclass(slots=True)
class Supervised:
    """A process, and when to restart it."""

    spec: ProcessSpec
    process: Process
    ends: int = 0
    restart_at: float = 0.0


class Supervisor:
    """Starts processes one after another, restarts those that exit, and stops all in reverse order."""

    def __init__(self, stop: StopSignals, report: Callable[[str], None], inherited_fds: Sequence[int] = ()) -> None:
        """`report` prints a line for the user. All processes inherit `inherited_fds`."""
        self._stop = stop
        self._report = report
        self._inherited_fds = inherited_fds
        self._supervised: list[Supervised] = []

    @property
    def names(self) -> list[str]:
        """Return the names of the processes, in the order in which they are stopped."""
        return [one.spec.name for one in reversed(self._supervised)]

    def start(self, spec: ProcessSpec, is_ready: Callable[[], bool] = lambda: True, timeout_s: float = 60.0) -> Process:
        """Start a process and wait until it is ready. From then on `restart_ended` restarts it.

        Raise StackFailed if it exits or times out before it is ready, Interrupted on a signal.
        """
        process = Process(spec, inherited_fds=self._inherited_fds)
        self._supervised.append(Supervised(spec, process))
        deadline = clock.monotonic_s() + timeout_s
        while not is_ready():
            if process.poll() is not None:
                raise StackFailed(_with_log(f"the {spec.name} {process.describe_end()}.", spec))
            if clock.monotonic_s() > deadline:
                raise StackFailed(_with_log(f"the {spec.name} is not ready after {timeout_s:.0f} s.", spec))
            self._stop.sleep(0.05)
        return process

    def wait_until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Supervise until a condition holds, at most `timeout_s`. Return whether it does. Raise Interrupted on a
        signal.
        """
        deadline = clock.monotonic_s() + timeout_s
        while not condition():
            if clock.monotonic_s() > deadline:
                return False
            self._stop.sleep(0.2)
            self.restart_ended()
        return True

    def run(self) -> None:
        while not self._stop.wait(_POLL_S):
            self.restart_ended()

    def restart_ended(self) -> None:
        """Restart processes that have exited, after a pause that grows. The number of restarts is not limited."""
        now = clock.monotonic_s()
        for one in self._supervised:
            if one.restart_at:
                if now >= one.restart_at:
                    one.restart_at = 0.0
                    one.process = Process(one.spec, inherited_fds=self._inherited_fds)
            elif one.process.poll() is not None:
                self._schedule_restart(one, now)

    def _schedule_restart(self, one: Supervised, now: float) -> None:
        if now - one.process.started_at > STEADY_S:
            one.ends = 0
        one.ends += 1
        how = f"the {one.spec.name} {one.process.describe_end()}"
        has_refused = (one.process.poll() or 0) > 0
        one.process.end()  # children that it left must not block the next process
        pause_s = min(FIRST_PAUSE_S * 2 ** (one.ends - 1), MAX_PAUSE_S)
        one.restart_at = now + pause_s
        if one.ends == 1 and has_refused:  # it has logged why
            self._report(_with_log(f"{how}; restarting in {pause_s:g} s.", one.spec, lines=3))
        elif one.ends < MAX_ENDS:
            self._report(f"{how}; restarting in {pause_s:g} s.")
        elif one.ends == MAX_ENDS:
            again = f"{one.ends} times in a row. Restarts continue, at most {MAX_PAUSE_S:g} s apart."
            self._report(_with_log(f"{how}, {again}", one.spec))

    def stop(self) -> None:
        """Stop all processes, the last started first. A second signal shortens the wait."""
        for one in self._supervised:
            one.process.announce_stop()
        while self._supervised:
            one = self._supervised.pop()
            one.process.end(self._stop)


def _with_log(message: str, spec: ProcessSpec, lines: int = 15) -> str:
    return f"{message}\n{last_lines(spec.log, lines)}".rstrip()
