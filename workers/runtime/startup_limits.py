"""Limits of a child's start: its timeout, and how long it may neither print nor use CPU. Limits of a worker process,
which ends by itself when it was idle for too long, after a number of tasks, or at an age.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from runqy import clock
from runqy.core.formats.durations import humanize
from workers.runtime.settings import WorkerSettings

CHECK_S = 5.0
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
CPU_TIME_MIN_S = 0.1
"""A process that only waits, and polls for something, uses less than this."""
_CLOCK_TICKS_PER_S = 100
"""The kernel's USER_HZ, which is the same on all architectures that Python runs on."""


class StartupLimits:
    """Decides when to give up a child that is not ready: at its timeout, or when it neither prints nor uses CPU."""

    def __init__(self, *, pid: int, timeout_s: float, silence_s: float) -> None:
        """`silence_s` of 0 means no limit."""
        self._pid = pid
        self._timeout_s = timeout_s
        self._silence_s = silence_s
        self._started_s = self._printed_s = self._used_cpu_s = clock.monotonic_s()
        self._has_printed = False
        self._cpu_time_s = cpu_time_s(pid)

    @property
    def started_s(self) -> float:
        return self._started_s

    @property
    def next_check_s(self) -> float:
        limits_s = [self._started_s + self._timeout_s]
        if self._silence_s:
            limits_s.append(max(self._printed_s, self._used_cpu_s) + self._silence_s)
        return min(CHECK_S, max(min(limits_s) - clock.monotonic_s(), 0.01))

    def record_output(self) -> None:
        self._printed_s, self._has_printed = clock.monotonic_s(), True

    def check(self) -> str:
        """Return why the child is to be killed; empty if it may continue."""
        now_s = clock.monotonic_s()
        used_s = cpu_time_s(self._pid)
        # The sum may also shrink, when a descendant has ended: it used CPU.
        if used_s is not None and abs(used_s - (self._cpu_time_s or 0)) >= CPU_TIME_MIN_S:
            self._cpu_time_s, self._used_cpu_s = used_s, now_s
        elif used_s is None and self._cpu_time_s is not None:
            self._used_cpu_s = now_s  # it cannot be read now, as without descriptors: the child may use any
        silent_s = now_s - max(self._printed_s, self._used_cpu_s)
        if now_s >= self._started_s + self._timeout_s:
            limit = f"startup_timeout_secs is {self._timeout_s:g}"
        elif self._silence_s and silent_s >= self._silence_s:
            limit = (
                f"no output or use of CPU for {humanize(silent_s)}, which only the queue's startup_timeout_secs allows"
            )
        else:
            return ""
        cpu = f"used no CPU for {humanize(now_s - self._used_cpu_s)}"
        if used_s is None:
            cpu = "used an unknown amount of CPU"
        elif now_s - self._used_cpu_s <= 2 * CHECK_S:
            cpu = "was using CPU"
        printed = f"printed last {humanize(now_s - self._printed_s)} before" if self._has_printed else "printed nothing"
        ran = humanize(now_s - self._started_s)
        return f"the child process was not ready after {ran}: {limit}; it {cpu} and {printed}"


def cpu_time_s(pid: int) -> float | None:
    """Return the CPU time of a process and its descendants; None if the system does not provide it."""
    try:
        return sum(map(_own_cpu_time_s, _descendants(pid)))
    except (OSError, ValueError, IndexError):
        return None


def memory_bytes(pid: int) -> int:
    """Return the memory of a process and its descendants; 0 if the system does not provide it."""
    try:
        return sum(int(Path(f"/proc/{each}/statm").read_bytes().split()[1]) for each in _descendants(pid)) * PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return 0


def _descendants(pid: int) -> Iterator[int]:
    """Yield a process and its descendants, including those in sessions of their own."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the thread has ended
            for child in children.read_text().split():
                yield from _descendants(int(child))


def _own_cpu_time_s(pid: int) -> float:
    content = Path(f"/proc/{pid}/stat").read_bytes()
    times = content.rpartition(b")")[2].split()[11:15]  # the name before may contain spaces and parentheses
    return sum(map(int, times)) / _CLOCK_TICKS_PER_S


class ExitLimits:
    """The limits of one process, for all its queues."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._active_s = clock.monotonic_ns() / 1e9
        self._taken = 0

    @property
    def are_any(self) -> bool:
        settings = self._settings
        return bool(settings.idle_exit_s or settings.max_tasks)

    def find_reason(self, *, is_busy: bool, taken: Sequence[int]) -> str:
        """Return which limit the process has reached; empty if none.

        `is_busy` is whether one of its queues has tasks, or deploys or starts what runs them; `taken` how many tasks
        each queue has run.
        """
        now_s, settings = clock.monotonic_ns() / 1e9, self._settings
        # Tasks may have begun and ended since the last call.
        if is_busy or sum(taken) != self._taken:
            self._active_s, self._taken = now_s, sum(taken)
        if settings.max_tasks and max(taken, default=0) >= settings.max_tasks:
            return f"it has run {settings.max_tasks:,} tasks (RUNQY_MAX_TASKS)"
        if settings.idle_exit_s and now_s - self._active_s >= settings.idle_exit_s:
            return f"it was idle for {humanize(settings.idle_exit_s)} (RUNQY_IDLE_EXIT)"
        return ""
