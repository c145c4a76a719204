"""A task in this worker's hands, and how its run ended."""

from dataclasses import dataclass
from enum import StrEnum

from runqy import clock
from runqy.broker.holding import Taken
from runqy.broker.message import run_time_s


class Fate(StrEnum):
    """How a run ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    """For good: the task asked for no retry, or nothing else would come of one."""
    RETRYABLE = "retryable"
    """The task asked for a retry, or its time was over."""
    CANCELED = "canceled"
    CHILD_DIED = "child_died"
    GIVEN_BACK = "given_back"
    """It was not started, or is interrupted because the worker stops."""
    LOST = "lost"
    """It is in somebody else's hands by now: nothing is written."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended, with the error's text or the result's JSON."""

    fate: Fate
    error: str = ""
    result: bytes | None = None


@dataclass(slots=True, eq=False)
class Run:
    """A task from its take to its end."""

    taken: Taken
    line: bytes
    """What the child is told."""
    started_ns: int = 0
    """Redis's Unix time at which its child was free to start it; 0: not yet."""
    ends_at_s: float = 0.0
    """On the monotonic clock: when its time is over."""
    verdict: Ending | None = None
    """How it ends as soon as its child lets go of it, whatever the child says."""

    @property
    def task_id(self) -> str:
        """Return the task's id."""
        return self.taken.hold.task_id

    def start(self, *, now_ns: int) -> None:
        """Let its time begin: timeout or deadline, whichever comes first."""
        self.started_ns = now_ns
        self.ends_at_s = clock.monotonic_s() + run_time_s(self.taken.message, now_ns=now_ns)
