"""What the page of a task shows of its past: attempts, copies, bulk actions, audit records."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.http import HttpRequest

from runqy.admin_site.relative_time import RelativeTime
from runqy.audit.queries import list_records_about
from runqy.broker.states import RunOutcome
from runqy.broker.streams.run_log import ERROR_MAX_BYTES, TRACEBACK_MAX_BYTES, is_cut
from runqy.durations import humanize_ms
from runqy.redis_connection import get_broker
from tasks.admin.bulk_actions import bulk_url, title_of
from tasks.admin.filters import OUTCOME_NAMES, OUTCOME_VARIANTS, tasks_url
from tasks.admin.permissions import HIDDEN, can_view_payloads
from tasks.admin.presenters import task_urls, worker_url
from tasks.bulk_actions import list_bulk_actions_on
from tasks.copies import list_copies, list_originals
from tasks.models import TaskRun
from tasks.run_queries import list_task_runs

_MAX_ATTEMPTS = 50
_SEVERAL = ("tasks.run", "tasks.archived", "tasks.deleted", "tasks.canceled")
"""Audit actions on several tasks of a queue, whose records name them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRow:
    """An attempt that ended, or the end of a task without one."""

    title: str
    outcome: str
    variant: str
    ended: RelativeTime | None
    wait_time: str
    run_time: str
    worker_id: str
    worker_url: str
    commit: str
    commit_url: str
    error: str
    is_hidden: bool
    """Error and traceback are hidden from the user."""
    traceback: str
    excerpt: str
    """What the history has kept of a long error; empty: all of it."""
    error_url: str
    """The list of tasks with the same error."""
    is_foreign: bool


def history_context(request: HttpRequest, redis_queue: str, task_id: str) -> dict[str, Any]:
    """Return what the templates of a task's page show of its past."""
    runs = list_task_runs(redis_queue, task_id)
    bulk_actions = list_bulk_actions_on(redis_queue, task_id)
    may_view_audit = request.user.has_perm("audit.view_auditrecord")
    records = (
        list_records_about(task_id, redis_queue, bulk_actions=[str(each.pk) for each in bulk_actions], several=_SEVERAL)
        if may_view_audit
        else []
    )
    is_visible = can_view_payloads(request.user, redis_queue)
    copies, originals = list_copies(redis_queue, task_id), list_originals(redis_queue, task_id)
    locations = {each: (each.copy_queue, each.copy_id) for each in copies}
    locations |= {each: (each.original_queue, each.original_id) for each in originals}
    urls = task_urls(get_broker(), locations.values())
    return {
        "runs": runs,
        "enqueued": _relative(runs[0].enqueued_at) if runs and runs[0].enqueued_at else None,
        "attempts": [_attempt_row(run, is_visible=is_visible) for run in runs[-_MAX_ATTEMPTS:]],
        "earlier_attempts": max(len(runs) - _MAX_ATTEMPTS, 0),
        "copies": [(each, urls[locations[each]]) for each in copies],
        "originals": [(each, urls[locations[each]]) for each in originals],
        "bulk_actions": [(each, title_of(each), bulk_url(each.pk)) for each in bulk_actions],
        "records": records,
    }


def describe_excerpt(run: TaskRun) -> str:
    """Return what the history has kept of a long error; empty if it has the whole error."""
    if is_cut(run.traceback):
        return (
            "An excerpt: of a long traceback the history keeps the end, between "
            f"{ERROR_MAX_BYTES} and {TRACEBACK_MAX_BYTES:,} bytes, the more the shorter the payload is."
        )
    if is_cut(run.exception_line):
        return f"An excerpt: of a long message the history keeps the first {ERROR_MAX_BYTES} bytes."
    return ""


def _attempt_row(run: TaskRun, *, is_visible: bool) -> AttemptRow:
    outcome = RunOutcome(run.outcome)
    error = run.exception_line
    return AttemptRow(
        title=f"Attempt {run.attempt}" if run.attempt else "Ended without running",
        outcome=OUTCOME_NAMES[outcome],
        variant=OUTCOME_VARIANTS[outcome],
        ended=_relative(run.ended_at),
        wait_time=humanize_ms(run.wait_ms),
        run_time=humanize_ms(run.run_ms),
        worker_id=run.worker_id,
        worker_url=worker_url(run.worker_id),
        commit=run.commit,
        commit_url=tasks_url(queue=run.queue, commit=run.commit, state="ended") if run.commit else "",
        error=(error if is_visible else HIDDEN) if error else "",
        is_hidden=not is_visible,
        traceback=run.traceback if is_visible else "",
        excerpt=describe_excerpt(run) if is_visible else "",
        error_url=tasks_url(queue=run.queue, error=run.fingerprint, state="ended") if run.fingerprint else "",
        is_foreign=run.is_foreign,
    )


def _relative(time: datetime) -> RelativeTime | None:
    return RelativeTime.of_ns(int(time.timestamp() * 1e9), get_broker().now_ns())
