"""The page of one task, with its past, and the downloads of its payload and result."""

import re
from typing import Any

from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse

from queues.payload_schema import example_curl
from queues.queries import HIDDEN, get_fresh_catalog, hides_payloads, run_with_fresh_catalog
from queues.releases import find_commits
from runqy.admin_site.times import RelativeTime
from runqy.admin_site.views import AdminView
from runqy.audit.history import records_url
from runqy.audit.queries import list_records_about
from runqy.broker.states import RunOutcome
from runqy.broker.streams.run_log import PAYLOAD_MAX_BYTES
from runqy.broker.tasks.record import TaskRecord
from runqy.core.formats import durations
from runqy.core.telemetry.tracing import REQUEST_ID, TRACEPARENT
from runqy.errors import PathNotFound, PayloadInvalid, QueueNotFound, TaskNotFound
from runqy.redis_connection import get_broker
from tasks import payloads
from tasks.actions import TaskAction
from tasks.admin.bulk_actions import bulk_url, title_of
from tasks.admin.content import render_content
from tasks.admin.output import output_section, parse_attempt, stream_section
from tasks.admin.permissions import (
    actions_for_one,
    can_apply,
    can_test,
    can_view_payloads,
    labels_for,
)
from tasks.admin.presenters import (
    ENDED,
    ShownRun,
    not_found_message,
    queue_tasks_url,
    shown_task,
    task_urls,
    tasks_url,
    timeline,
)
from tasks.bulk_actions import list_bulk_actions_on
from tasks.copies import list_copies, list_originals
from tasks.history.queries import find_newest_run, list_task_runs
from tasks.models import TaskRun
from tasks.queries import get_queue_task, get_task, read_stream_and_output

MAX_CURL_BYTES = 4_096
_PARTS = ("payload", "result")
_UNSAFE_IN_A_NAME = re.compile(r"[^A-Za-z0-9._-]")
_MAX_ATTEMPTS = 50
_SEVERAL = ("tasks.run", "tasks.archived", "tasks.deleted", "tasks.canceled")
"""Audit actions on several tasks of a queue. Their records list the ids."""


class TaskView(AdminView):
    """The page of a task, or of a task that is only in the history."""

    template_name = "admin/tasks/task/detail.html"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        record, run = find_task_or_run(self.request, kwargs["object_id"])
        if run is not None:
            self.template_name = "admin/tasks/task/ended.html"
            return super().get_context_data(**kwargs) | _ended_task_context(self.request, run)
        assert record is not None  # noqa: S101 (narrows the type)
        return super().get_context_data(**kwargs) | _task_context(self.request, record)


class ContentView(AdminView):
    """The download of a payload or a result, byte for byte."""

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        part = kwargs["part"]
        if part not in _PARTS:
            raise PathNotFound
        record = find_requested_task(request, kwargs["object_id"])
        if not can_view_payloads(request.user, record.queue):
            raise PermissionDenied
        data = record.payload if part == "payload" else record.result
        if data is None:
            raise PathNotFound("This task has no result.")
        # Ids may contain any character, such as quotes and slashes.
        name = f"{_UNSAFE_IN_A_NAME.sub('-', record.id)[:100]}-{part}.json"
        headers = {"Content-Disposition": f'attachment; filename="{name}"', "Content-Type": "application/octet-stream"}
        return HttpResponse(data, headers=headers)


def _task_context(request: HttpRequest, record: TaskRecord) -> dict[str, Any]:
    message, past = record.message, history_context(request, record.queue, record.id)
    shown = shown_task(record, request.user, next((each for each in reversed(past["runs"]) if each.is_final), None))
    is_visible = shown.is_visible
    payload = render_content(record.payload) if is_visible else None
    location = record.queue, record.id
    broker = get_broker()
    status, chunks, output = broker.run(read_stream_and_output(broker, location, attempt=parse_attempt(request)))
    return past | {
        "title": f"Task {record.id}",
        "task": record,
        "message": message,
        "state": shown.state,
        "state_variant": shown.variant,
        "list_url": queue_tasks_url(record.queue, record.state),
        "actions": [
            (action, labels_for(action, record.state)) for action in actions_for_one(request.user, record.state)
        ],
        "can_copy": can_copy(request.user, record.queue),
        "is_hidden": not is_visible,
        "hidden": HIDDEN,
        "payload": payload,
        "result": render_content(record.result) if is_visible and record.result is not None else None,
        "stream": stream_section(request, location, status, chunks),
        "output": output_section(request, location, status, output),
        "last_error": record.error if is_visible else "",
        "has_error": shown.has_error,
        "duration": shown.run_time,
        "unique_key": message.unique_key if is_visible else "",
        "has_unique_key": bool(message.unique_key),
        "max_attempts": message.retry + 1,
        "timeline": timeline(record, shown.now_ns),
        "timeout": durations.humanize(message.timeout) if message.timeout else "",
        "retention": durations.humanize(message.retention) if message.retention else "",
        "worker_url": shown.worker_url,
        "records_url": records_url("task", record.id),
        "request_id": message.headers.get(REQUEST_ID, ""),
        "traceparent": message.headers.get(TRACEPARENT, ""),
        "curl": _curl(request, record.queue, record.payload) if is_visible else "",
    }


def _ended_task_context(request: HttpRequest, run: TaskRun) -> dict[str, Any]:
    shown = ShownRun.of(run, request.user)
    is_visible, now_ns = shown.is_visible, shown.now_ns
    payload, result = run.payload.encode(), run.result.encode()
    times = [("Enqueued", run.enqueued_at), ("Last run started", run.started_at), ("Ended", run.ended_at)]
    return history_context(request, run.redis_queue, run.task_id) | {
        "title": f"Task {run.task_id}",
        "run": run,
        "keeps_no_payloads": hides_payloads(run.redis_queue, get_fresh_catalog()),
        "payload_max_bytes": PAYLOAD_MAX_BYTES,
        "is_excerpt": bool(payload) and not _is_whole(payload),
        "state": shown.outcome,
        "state_variant": shown.variant,
        "list_url": tasks_url(queue=run.redis_queue, state=ENDED),
        "can_copy": can_copy(request.user, run.redis_queue),
        "is_hidden": not is_visible,
        "hidden": HIDDEN,
        "payload": render_content(payload) if is_visible and payload else None,
        "result": render_content(result) if is_visible and result else None,
        "error_excerpt": shown.error_limits,
        "error": (run.traceback or run.exception_line) if is_visible else "",
        "has_error": bool(run.error_message or run.error_class),
        "duration": shown.run_time if run.outcome == RunOutcome.COMPLETED else "",
        "timeline": [(label, RelativeTime.of_datetime(at, now_ns)) for label, at in times if at],
        "worker_url": shown.worker_url,
        "records_url": records_url("task", run.task_id),
        "curl": _curl(request, run.redis_queue, payload) if is_visible and _is_whole(payload) else "",
    }


def find_task_or_run(request: HttpRequest, object_id: str) -> tuple[TaskRecord | None, TaskRun | None]:
    """Return the task that a URL names, or the newest run of a task that is only in the history.

    Raise TaskNotFound, QueueNotFound.
    """
    try:
        return find_requested_task(request, object_id), None
    except (TaskNotFound, QueueNotFound):
        run = find_newest_run(unquote(object_id), request.GET.get("queue", ""))
        if run is None:
            raise
        return None, run


def find_requested_task(request: HttpRequest, object_id: str) -> TaskRecord:
    """Return the task that a URL names; its `queue` parameter is optional.

    Raise TaskNotFound, QueueNotFound.
    """
    queue, task_id = request.GET.get("queue", ""), unquote(object_id)
    try:
        return get_queue_task(get_broker(), queue, task_id) if queue else run_with_fresh_catalog(get_task, task_id)
    except TaskNotFound:
        raise TaskNotFound(not_found_message(task_id)) from None


def can_copy(user: Any, redis_queue: str) -> bool:
    """Return whether a user may run a task again as a new one. The form shows the payload."""
    return can_test(user) and can_apply(user, TaskAction.RUN) and can_view_payloads(user, redis_queue)


def _curl(request: HttpRequest, redis_queue: str, payload: bytes) -> str:
    """Return the command that enqueues the payload again; empty if it is too long for a command line."""
    if len(payload) > MAX_CURL_BYTES:
        return ""
    return example_curl(request.build_absolute_uri("/").rstrip("/"), redis_queue, payload.decode("utf-8", "replace"))


def _is_whole(payload: bytes) -> bool:
    """Return whether the history has the whole payload: an excerpt is not JSON."""
    try:
        payloads.parse_payload(payload.decode())
    except PayloadInvalid:
        return False
    return True


def history_context(request: HttpRequest, redis_queue: str, task_id: str) -> dict[str, Any]:
    """Return the context for the templates that show the past of a task."""
    runs = list_task_runs(redis_queue, task_id)
    first = runs[0].enqueued_at if runs else None
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
        "enqueued": RelativeTime.of_datetime(first, get_broker().now_ns()) if first else None,
        "attempts": [ShownRun.of(run, request.user) for run in runs[-_MAX_ATTEMPTS:]],
        "commits": find_commits((run.queue, run.commit) for run in runs[-_MAX_ATTEMPTS:]),
        "earlier_attempts": max(len(runs) - _MAX_ATTEMPTS, 0),
        "copies": [(each, urls[locations[each]]) for each in copies],
        "originals": [(each, urls[locations[each]]) for each in originals],
        "bulk_actions": [(each, title_of(each), bulk_url(each.pk)) for each in bulk_actions],
        "records": records,
    }
