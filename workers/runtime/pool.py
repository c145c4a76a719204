"""The interface between the consumer and the pools of children, and code shared by both pools."""

from collections.abc import Callable, Sequence
from typing import Protocol

from runqy.broker.tasks.archive_reasons import DEADLINE_EXCEEDED, ErrorClass, timeout_error
from runqy.broker.tasks.record import TaskProgress
from workers.runtime.child import ChildSpec
from workers.runtime.protocol import MAX_LINE_BYTES, ChildResponse, ChunkLine, InvalidResponse
from workers.runtime.retries import backoff_s
from workers.runtime.settings import RestartSettings
from workers.runtime.task_runs import Run, RunResult, RunStatus

OVERFLOW = RunResult(
    RunStatus.FAILED,
    f"result_too_large: the response was longer than {MAX_LINE_BYTES >> 20} MiB, the limit of a response; store "
    "the data elsewhere and return its location",
    ErrorClass.RESULT_TOO_LARGE,
)
MAX_RETRY_DELAY_S = 366 * 24 * 3600
"""The longest delay that a task may request for its retry."""
SHORTAGE_DELAY_S, SHORTAGE_MAX_DELAY_S = 0.2, 5.0
"""The delays between starts while the machine is out of resources: no process is started, so they cost nothing."""
STOP_TIMEOUT_S = 10.0
"""How long a stop waits for all children to end, beyond their own grace periods."""


class PoolOwner(Protocol):
    """The callbacks of a pool."""

    @property
    def refill_s(self) -> float:
        """Return how long it takes from the end of a run to the next task of its slot, on average."""

    def run_ended(self, run: Run, result: RunResult) -> None:
        """A run has ended and its slot is free."""

    def has_lease(self, run: Run) -> bool:
        """Return whether the lease of a run has not ended. If it has, another worker may run the task."""

    def run_started(self, run: Run) -> None:
        """A child can start a run now: its timeout begins."""

    def batch_sent(self, members: int) -> None:
        """A child was sent tasks as one batch."""

    def shared_death(self, runs: Sequence[Run], cause: str) -> None:
        """A child died while it had several runs. Each of them ends too."""

    def run_sent_again(self, run: Run) -> None:
        """A run begins again, because its batch failed as a whole."""

    def run_printed(self, runs: Sequence[Run], data: bytes, *, is_line: bool) -> None:
        """A child printed something while it had these runs."""

    def run_chunk(self, run: Run, line: ChunkLine) -> None:
        """A child streams a part of a run's result."""

    def run_logged(self, run: Run, text: str) -> None:
        """A child reports what one of its runs printed."""

    def run_progressed(self, run: Run, progress: TaskProgress) -> None:
        """A child reports the progress of a run."""

    def pool_changed(self) -> None:
        """The readiness, capacity or problem of the pool may have changed."""


class RestartPolicy:
    """Counts the failures of a child and returns the delay before its restart."""

    def __init__(self, settings: RestartSettings, on_failure: Callable[[], None] = lambda: None) -> None:
        self._settings = settings
        self._on_failure = on_failure
        self._failures = self._shortages = 0

    @property
    def is_enabled(self) -> bool:
        return self._settings.is_enabled

    def record_success(self) -> None:
        """Reset the counts: the child completed a task, or will run other code."""
        self._failures = self._shortages = 0

    def record_start(self) -> None:
        """Record that the machine could start a child."""
        self._shortages = 0

    def record_child_death(self) -> None:
        """Record that a child died while it ran a task. It restarts immediately, because the task may be the cause."""
        self._on_failure()

    def next_delay_s(self) -> float | None:
        """Count a failure. Return the delay before the restart, or None if the child is not restarted."""
        self._on_failure()
        settings = self._settings
        if not settings.is_enabled:
            return None
        if settings.max_restarts and self._failures >= settings.max_restarts:
            self._failures = 0  # after the cooldown, the delays are short again
            return settings.cooldown_s
        self._failures += 1
        return backoff_s(
            self._failures - 1,
            first_s=settings.initial_delay_s,
            max_s=settings.max_delay_s,
            factor=settings.backoff_factor,
        )

    def next_shortage_delay_s(self) -> float:
        """Count a start that the machine had no resources for. Return the delay before the next.

        Also with restarts disabled, and beyond their number: these are for code that fails.
        """
        self._shortages += 1
        return backoff_s(self._shortages - 1, first_s=SHORTAGE_DELAY_S, max_s=SHORTAGE_MAX_DELAY_S)


class Pool(Protocol):
    """Children of one queue and the tasks submitted to them."""

    @property
    def problem(self) -> str:
        """Return why no child is ready; empty if one is ready or none has failed."""

    @property
    def next_problem(self) -> str:
        """Return why the newest code does not start while older code runs on; empty if it did not fail."""

    @property
    def shortage(self) -> str:
        """Return what the machine is out of, so that a child could not be started; empty if it is not."""

    @property
    def is_replacing(self) -> bool:
        """Return whether the newest code is being started beside children that run older code."""

    @property
    def loading_since_s(self) -> float | None:
        """Return when the oldest child that is still loading was started, on the monotonic clock; None if none is."""

    @property
    def is_ready(self) -> bool:
        """Return whether a task that is submitted now runs."""

    @property
    def slots(self) -> int:
        """Return how many tasks can run at once, without those held ahead. Until children are ready, it is expected."""

    @property
    def capacity(self) -> int:
        """Return how many tasks the pool can start now or soon, those that it has included."""

    @property
    def is_up_to_date(self) -> bool:
        """Return whether every child was started with the newest specification."""

    @property
    def is_settled(self) -> bool:
        """Return whether all children for tasks are ready, and were started with the newest specification."""

    @property
    def startup_s(self) -> float:
        """Return how long the start of a child took, at most; 0 if none is ready."""

    @property
    def memory_bytes(self) -> int:
        """Return the most memory that one of the children uses; 0 if that is not known."""

    def start(self, spec: ChildSpec, *, beside: bool = False, keeps_previous: bool = False) -> None:
        """Start children, or replace them, each between two tasks.

        With `beside`, each runs on until its successor is ready. Both are in memory for that time. With
        `keeps_previous`, long running ones then stay there, without tasks, until `release_previous` or `retire_newer`.
        """

    def release_previous(self) -> None:
        """End the children that stayed beside their successors."""

    def retire_newer(self, release: int, *, beside: bool) -> None:
        """Send no more tasks to children of releases above this number; each ends once it has done those that it has.

        `start` then starts others: with `beside` at once, otherwise each when its predecessor has ended.
        """

    def submit(self, *runs: Run) -> None:
        """Run tasks, each as soon as a child is free."""

    def end_run(self, run: Run, forced_result: RunResult) -> None:
        """End a run early. `run_ended` is called once the child has stopped it."""

    def check_runs(self, now_s: float) -> None:
        """End the runs that timed out, and requeue those that wait for children busy for longer than expected."""

    def requeue_unstarted(self) -> None:
        """Requeue the runs that no child has been sent."""

    async def stop(self) -> None:
        """End all children permanently."""


def timeout_result(run: Run) -> RunResult:
    message = run.task.message
    timeout_end_ns = run.started_ns + message.timeout * 10**9
    is_deadline = message.deadline and (not message.timeout or message.deadline * 10**9 < timeout_end_ns)
    if is_deadline:
        return RunResult(RunStatus.TIMED_OUT, DEADLINE_EXCEEDED, ErrorClass.DEADLINE_EXCEEDED)
    return RunResult(RunStatus.TIMED_OUT, timeout_error(message.timeout), ErrorClass.TIMEOUT)


def invalid_response_result(response: ChildResponse) -> RunResult:
    """Return the result of a run whose child responded for a task that it does not have."""
    text = f"response_invalid: the child responded for the task {response.task_id!r:.100}, which it does not have"
    error = ": ".join(filter(None, (text, response.error_text)))
    return RunResult(RunStatus.FAILED, error, ErrorClass.RESPONSE_INVALID)


def to_run_result(response: ChildResponse | InvalidResponse) -> RunResult:
    if isinstance(response, InvalidResponse):
        return RunResult(RunStatus.FAILED, f"result_invalid: {response.reason}", ErrorClass.RESULT_INVALID)
    if not (error := response.error_text):
        return RunResult(RunStatus.SUCCEEDED, output=bytes(response.result))
    error_class = response.exception_path
    if not response.wants_retry:
        return RunResult(RunStatus.FAILED, error, error_class)
    delay = response.delay_s
    if isinstance(delay, int | float) and not isinstance(delay, bool) and 0 <= delay <= MAX_RETRY_DELAY_S:
        return RunResult(RunStatus.RETRYABLE, error, error_class, retry_delay_s=delay)
    if delay is not None:
        error += f"\n[retry_delay_s is no number from 0 to {MAX_RETRY_DELAY_S}: {delay!r:.60}; the queue's applies]"
    return RunResult(RunStatus.RETRYABLE, error, error_class)
