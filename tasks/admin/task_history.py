"""The past of a task, for its page: attempts, copies, bulk actions, audit records."""

from datetime import datetime
from typing import Any

from django.http import HttpRequest

from runqy.admin_site.relative_time import RelativeTime
from runqy.audit.queries import list_records_about
from runqy.redis_connection import get_broker
from tasks.admin.bulk_actions import bulk_url, title_of
from tasks.admin.presenters import task_urls
from tasks.admin.shown_runs import ShownRun
from tasks.bulk_actions import list_bulk_actions_on
from tasks.copies import list_copies, list_originals
from tasks.history.queries import list_task_runs

_MAX_ATTEMPTS = 50
_SEVERAL = ("tasks.run", "tasks.archived", "tasks.deleted", "tasks.canceled")
"""Audit actions on several tasks of a queue. Their records list the ids."""


def history_context(request: HttpRequest, redis_queue: str, task_id: str) -> dict[str, Any]:
    """Return the context for the templates that show the past of a task."""
    runs = list_task_runs(redis_queue, task_id)
    bulk_actions = list_bulk_actions_on(redis_queue, task_id)
    may_view_audit = request.user.has_perm("audit.view_auditrecord")
    records = (
        list_records_about(task_id, redis_queue, bulk_actions=[str(each.pk) for each in bulk_actions], several=_SEVERAL)
        if may_view_audit
        else []
    )
    copies, originals = list_copies(redis_queue, task_id), list_originals(redis_queue, task_id)
    locations = {each: (each.copy_queue, each.copy_id) for each in copies}
    locations |= {each: (each.original_queue, each.original_id) for each in originals}
    urls = task_urls(get_broker(), locations.values())
    return {
        "runs": runs,
        "enqueued": _relative(runs[0].enqueued_at) if runs and runs[0].enqueued_at else None,
        "attempts": [ShownRun.of(run, request.user) for run in runs[-_MAX_ATTEMPTS:]],
        "earlier_attempts": max(len(runs) - _MAX_ATTEMPTS, 0),
        "copies": [(each, urls[locations[each]]) for each in copies],
        "originals": [(each, urls[locations[each]]) for each in originals],
        "bulk_actions": [(each, title_of(each), bulk_url(each.pk)) for each in bulk_actions],
        "records": records,
    }


def _relative(time: datetime) -> RelativeTime | None:
    return RelativeTime.of_ns(int(time.timestamp() * 1e9), get_broker().now_ns())
