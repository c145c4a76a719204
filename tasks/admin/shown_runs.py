"""A run of the history, as pages show it to a user."""

from dataclasses import dataclass
from typing import Any

from runqy.admin_site.relative_time import RelativeTime
from runqy.broker.states import RunOutcome
from runqy.broker.streams.run_log import ERROR_MAX_BYTES, TRACEBACK_MAX_BYTES, is_cut
from runqy.formats.durations import humanize_ms
from runqy.redis_connection import get_broker
from tasks.admin.filters import OUTCOME_NAMES, OUTCOME_VARIANTS, tasks_url
from tasks.admin.permissions import HIDDEN, can_view_payloads
from tasks.admin.presenters import task_url, worker_url
from tasks.models import TaskRun

_EXCERPT = 160


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownRun:
    """An attempt, or the end of a task without one, as a user may see it."""

    run: TaskRun
    now_ns: int
    is_visible: bool
    """False: payload and error are hidden from the user."""
    earlier: int = 0
    """The number of earlier attempts of the task that match, in a list with one row for each task."""

    @classmethod
    def of(cls, run: TaskRun, user: Any) -> "ShownRun":
        """Return a run as a user may see it. Raise ConfigurationUnavailable."""
        return cls(run=run, now_ns=get_broker().now_ns(), is_visible=can_view_payloads(user, run.redis_queue))

    @property
    def url(self) -> str:
        return task_url(self.run.task_id, self.run.redis_queue)

    @property
    def outcome(self) -> str:
        return OUTCOME_NAMES[RunOutcome(self.run.outcome)]

    @property
    def variant(self) -> str:
        return OUTCOME_VARIANTS[RunOutcome(self.run.outcome)]

    @property
    def ended(self) -> RelativeTime | None:
        return RelativeTime.of_ns(int(self.run.ended_at.timestamp() * 1e9), self.now_ns)

    @property
    def run_time(self) -> str:
        return humanize_ms(self.run.run_ms)

    @property
    def wait_time(self) -> str:
        return humanize_ms(self.run.wait_ms)

    @property
    def worker_url(self) -> str:
        return worker_url(self.run.worker_id)

    @property
    def commit_url(self) -> str:
        return tasks_url(queue=self.run.queue, commit=self.run.commit, state="ended")

    @property
    def error_url(self) -> str:
        """Return the URL of the list of tasks with the same error; empty without an error."""
        error = self.run.fingerprint
        return tasks_url(queue=self.run.queue, error=error, state="ended") if error else ""

    @property
    def payload_start(self) -> str:
        return self.run.payload[:_EXCERPT] if self.is_visible else ""

    @property
    def error(self) -> str:
        error = self.run.exception_line
        return (error if self.is_visible else HIDDEN) if error else ""

    @property
    def error_start(self) -> str:
        return self.error[:_EXCERPT]

    @property
    def traceback(self) -> str:
        return self.run.traceback if self.is_visible else ""

    @property
    def error_limits(self) -> str:
        """Return an explanation of what is kept of a long error; empty if the whole error is."""
        if not self.is_visible:
            return ""
        if is_cut(self.run.traceback):
            return (
                "An excerpt: the history keeps only the end of a long traceback, "
                f"{ERROR_MAX_BYTES} to {TRACEBACK_MAX_BYTES:,} bytes; a shorter payload leaves room for more."
            )
        if is_cut(self.run.exception_line):
            return f"An excerpt: the history keeps the first {ERROR_MAX_BYTES} bytes of a long message."
        return ""
