"""What a task streams, on its page: what there is with the page, then polled and appended until the run has ended."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any
from urllib.parse import urlencode

from django.contrib.admin.utils import quote, unquote
from django.http import HttpRequest, HttpResponse
from django.urls import reverse

from queues.queries import HIDDEN, resolve_redis_queue
from runqy.admin_site.views import AdminView
from runqy.broker.replies import read_number
from runqy.broker.tasks.chunks import TaskChunks, count_dropped
from runqy.broker.tasks.reader import TaskLocation, TaskStatus
from runqy.errors import TaskNotFound
from runqy.redis_connection import get_broker
from tasks import payloads
from tasks.admin.permissions import can_view_payloads
from tasks.queries import read_task_chunks


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
