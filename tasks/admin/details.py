"""The page of one task, and its payload and result as files."""

import re
from typing import Any

from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse

from queues.queries import run_operation
from runqy import durations
from runqy.audit.links import records_url
from runqy.broker.message import REQUEST_ID, TRACEPARENT
from runqy.broker.records import TaskRecord
from runqy.connection import get_broker
from runqy.errors import PathNotFound, TaskNotFound
from tasks.admin.rights import HIDDEN, WORDS, deeds_for_one, sees_payloads
from tasks.admin.shown import VARIANTS, content, no_such_task, queue_tasks_url, timeline, worker_url
from tasks.listing import get_task_of
from tasks.queries import get_task

_PARTS = ("payload", "result")
_UNSAFE_IN_A_NAME = re.compile(r"[^A-Za-z0-9._-]")


def show_task(context: dict[str, Any], request: HttpRequest, object_id: str) -> HttpResponse:
    """Show all that is known about a task."""
    record = find_shown_task(request, object_id)
    sees, now_ns = sees_payloads(request.user), get_broker().now_ns()
    message = record.message
    context |= {
        "title": f"Task {record.id}",
        "task": record,
        "asked": message,
        "label": VARIANTS.get(record.state, ""),
        "list_url": queue_tasks_url(record.queue, record.state),
        "deeds": [(deed, WORDS[deed]) for deed in deeds_for_one(request.user, record.state)],
        "is_hidden": not sees,
        "hidden": HIDDEN,
        "payload": content(record.payload) if sees else None,
        "result": content(record.result) if sees and record.result is not None else None,
        "last_error": record.error if sees else "",
        "has_error": bool(record.error),
        "unique_key": message.unique_key if sees else "",
        "has_unique_key": bool(message.unique_key),
        "most_attempts": message.retry + 1,
        "timeline": timeline(record, now_ns),
        "timeout": durations.in_words(message.timeout) if message.timeout else "",
        "retention": durations.in_words(message.retention) if message.retention else "",
        "worker_url": worker_url(record.worker_id),
        "records_url": records_url("task", record.id),
        "request_id": message.headers.get(REQUEST_ID, ""),
        "traceparent": message.headers.get(TRACEPARENT, ""),
    }
    return TemplateResponse(request, "admin/tasks/task/detail.html", context)


def download_content(context: dict[str, Any], request: HttpRequest, object_id: str, part: str) -> HttpResponse:
    """Give out a payload or a result, byte for byte."""
    if part not in _PARTS:
        raise PathNotFound
    if not sees_payloads(request.user):
        raise PermissionDenied
    record = find_shown_task(request, object_id)
    data = record.payload if part == "payload" else record.result
    if data is None:
        raise PathNotFound("This task has no result.")
    name = f"{_UNSAFE_IN_A_NAME.sub('-', record.id)[:100]}-{part}.json"
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Content-Type": "application/octet-stream"}
    return HttpResponse(data, headers=headers)


def find_shown_task(request: HttpRequest, object_id: str) -> TaskRecord:
    """Return the task of a page; the address may name its queue. Raises TaskNotFound, QueueNotFound."""
    queue, task_id = request.GET.get("queue", ""), unquote(object_id)
    try:
        return get_task_of(get_broker(), queue, task_id) if queue else run_operation(get_task, task_id)
    except TaskNotFound:
        raise TaskNotFound(no_such_task(task_id)) from None
