"""What a task prints, reports and streams, on its page: rendered with the page, then polled until the task ends.

What it streams is appended, until the run has ended.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.contrib.admin.utils import quote, unquote
from django.http import HttpRequest, HttpResponse
from django.urls import reverse

from queues.queries import HIDDEN, get_fresh_catalog, hides_payloads, resolve_redis_queue
from runqy.admin_site.views import AdminView
from runqy.broker.replies import read_number
from runqy.broker.tasks.chunks import TaskChunks, count_dropped
from runqy.broker.tasks.output import MAX_ATTEMPTS, TaskOutput
from runqy.broker.tasks.reader import TaskLocation, TaskStatus
from runqy.broker.tasks.record import TaskProgress, decode_progress
from runqy.errors import TaskNotFound
from runqy.redis_connection import get_broker
from tasks import payloads
from tasks.admin.permissions import can_view_payloads
from tasks.admin.presenters import task_url
from tasks.queries import read_task_chunks, read_task_output

_MAX_DIGITS = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressBar:
    """The progress of a run."""

    label: str
    percent: int | None
    """None if the total is unknown."""
    message: str


class OutputView(AdminView):
    """The section alone, for a page that polls it.

    The response is 204 if nothing has changed. It makes the browser reload the page if the state has changed or the
    task was deleted.
    """

    template_name = "admin/tasks/task/output.html"

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        redis_queue = resolve_redis_queue(get_broker(), request.GET.get("queue", "")).redis_queue
        location = redis_queue, unquote(kwargs["object_id"])
        try:
            broker = get_broker()
            status, output = broker.run(read_task_output(broker, location, attempt=parse_attempt(request)))
        except TaskNotFound:
            return HttpResponse(headers={"HX-Refresh": "true"})
        if request.GET.get("state") != _state_of(status):
            return HttpResponse(headers={"HX-Refresh": "true"})
        if request.GET.get("version") == _version_of(status, output) and "paused" not in request.GET:
            return HttpResponse(status=204)
        section = output_section(request, location, status, output)
        return self.render_to_response(self.get_context_data(**kwargs, output=section, hidden=HIDDEN))


def output_section(
    request: HttpRequest, location: TaskLocation, status: TaskStatus, output: TaskOutput
) -> dict[str, Any]:
    """Return the section for a task."""
    queue, task_id = location
    is_visible = can_view_payloads(request.user, queue)
    attempt = parse_attempt(request)
    query: dict[str, str | int] = {"queue": queue, "state": _state_of(status)}
    if attempt is not None:
        query["attempt"] = attempt
    path = reverse("admin:tasks_task_output", args=[quote(task_id)])
    current = query | {"version": _version_of(status, output)}
    # Only the last MAX_ATTEMPTS attempts with output are kept, and the first of them is not the task's first attempt.
    has_dropped = len(output.attempts) >= MAX_ATTEMPTS and output.attempts[0] > 1
    text = output.text.decode("utf-8", "replace") if is_visible else ""
    progress = _progress_bar(decode_progress(status.progress), is_visible=is_visible)
    is_live = not status.state.is_final
    return {
        "attempt": attempt or output.attempt,
        "attempts": [(other, f"{task_url(task_id, queue)}&attempt={other}") for other in output.attempts],
        "text": text,
        "is_truncated": output.offset > 0,
        "has_dropped_attempts": has_dropped,
        "is_dropped": has_dropped and attempt is not None and attempt < output.attempts[0],
        "is_shared": output.is_shared,
        "progress": progress,
        "is_hidden": not is_visible,
        "is_kept": settings.RUNQY_TASK_OUTPUT and not hides_payloads(queue, get_fresh_catalog()),
        "is_live": is_live,
        # There is nothing to show, and nothing will come.
        "is_empty": not (is_live or progress or output.attempts or text),
        "is_paused": request.GET.get("paused") == "true",
        "poll_url": f"{path}?{urlencode(current)}",
        "pause_url": f"{path}?{urlencode(query | {'paused': 'true'})}",
        "resume_url": f"{path}?{urlencode(query | {'paused': 'false'})}",
    }


def _progress_bar(progress: TaskProgress | None, *, is_visible: bool) -> ProgressBar | None:
    if progress is None:
        return None
    percent = round(min(progress.current / progress.total, 1) * 100) if progress.total else None
    label = f"{progress.current:,} of {progress.total:,}" if progress.total else f"{progress.current:,}"
    return ProgressBar(label=label, percent=percent, message=progress.message if is_visible else "")


def parse_attempt(request: HttpRequest) -> int | None:
    """Return the requested attempt; None for the last one that printed anything."""
    text = request.GET.get("attempt", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS else None


def _state_of(status: TaskStatus) -> str:
    """Return a text that changes whenever the rest of the page does."""
    return f"{status.state}-{status.started_at_ns or 0}"


def _version_of(status: TaskStatus, output: TaskOutput) -> str:
    """Return a text that changes whenever the section does."""
    parts = (output.attempts, output.attempt, output.end, status.progress)
    return hashlib.sha1(repr(parts).encode(), usedforsecurity=False).hexdigest()[:12]


class StreamView(AdminView):
    """The section alone while it is empty, then what was streamed since, for a page that polls it.

    The response is 204 if there is nothing new. It makes the browser reload the page if another run has begun or the
    task was deleted.
    """

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        redis_queue = resolve_redis_queue(get_broker(), request.GET.get("queue", "")).redis_queue
        location = redis_queue, unquote(kwargs["object_id"])
        run, offset = (read_number(request.GET.get(name, "")) or 0 for name in ("run", "offset"))
        try:
            broker = get_broker()
            status, chunks = broker.run(read_task_chunks(broker, location, run=run, offset=offset))
        except TaskNotFound:
            return HttpResponse(headers={"HX-Refresh": "true"})
        if chunks.run != run:
            return HttpResponse(headers={"HX-Refresh": "true"})
        section = stream_section(request, location, status, chunks)
        if not chunks.entries and section["poll_url"]:
            return HttpResponse(status=204)
        self.template_name = f"admin/tasks/task/stream{'_more' if offset else ''}.html"
        return self.render_to_response(self.get_context_data(**kwargs, stream=section, hidden=HIDDEN))


def stream_section(
    request: HttpRequest, location: TaskLocation, status: TaskStatus, chunks: TaskChunks
) -> dict[str, Any]:
    """Return the section for a task."""
    queue, task_id = location
    is_visible = can_view_payloads(request.user, queue)
    offset = chunks.offset + len(chunks.entries)
    is_live = not status.state.is_final
    path = reverse("admin:tasks_task_stream", args=[quote(task_id)])
    query = {"queue": queue, "run": chunks.run, "offset": offset}
    return {
        "has_begun": offset > 0,
        "text": _text_of(chunks.entries) if is_visible else "",
        "is_hidden": not is_visible,
        "is_live": is_live,
        "poll_url": f"{path}?{urlencode(query)}" if is_live or offset < chunks.end else "",
    }


def _text_of(entries: Sequence[bytes]) -> str:
    """Return texts as they are, and other chunks as a line of JSON each."""
    parts: list[str] = []
    for is_gap, group in groupby(entries, lambda entry: count_dropped(entry) > 0):
        if is_gap:
            parts.append(f"\n[{sum(map(count_dropped, group)):,} chunks were dropped, because Redis was full]\n")
            continue
        for entry in group:
            text = payloads.decode_text(payloads.as_json(entry))
            parts.append(payloads.to_one_line(entry).decode() + "\n" if text is None else text)
    return "".join(parts)
