"""Examples of the OpenAPI schema."""

from typing import Any

from drf_spectacular.utils import OpenApiExample

_TASK: dict[str, Any] = {
    "id": "task-uuid",
    "type": "inference_high",
    "queue": "inference_high",
    "state": "completed",
    "payload": {"prompt": "Hello world", "width": 1024},
    "result": {"ok": True},
    "max_retry": 3,
    "retried": 0,
    "last_err": "",
    "error": None,
    "error_class": None,
    "runs": [
        {
            "attempt": 1,
            "worker_id": "worker-abc123",
            "ended_at": "2024-01-15T12:45:00Z",
            "error_class": None,
            "error": None,
        }
    ],
    "timeout": "5m0s",
    "deadline": None,
    "next_process_at": None,
    "enqueued_at": "2024-01-15T12:44:58.120000Z",
    "started_at": "2024-01-15T12:44:59.120000Z",
    "completed_at": "2024-01-15T12:45:00Z",
    "worker_id": "worker-abc123",
    "request_id": "3f1c09a27be44d10",
    "traceparent": None,
    "progress": {"current": 3, "total": 10, "message": "resizing"},
    "child_deaths": 0,
    "shared_deaths": 0,
}
_DETAIL = _TASK | {
    "attempts": 1,
    "pending_since": None,
    "last_failed_at": None,
    "archived_at": None,
    "expires_at": "2024-01-16T12:45:00Z",
    "lease_ends_at": None,
    "cancel_asked_at": None,
    "is_canceled": False,
    "retention_secs": 86400,
    "unique": False,
}
_NEXT = "/api/cli/queues/inference_high/tasks?state=completed&limit=1&cursor=eyJzdGF0ZSI6ImNvbXBsZXRlZCJ9"
TASK_PAGE = OpenApiExample("Response", {"tasks": [_TASK], "count": 1, "next": _NEXT}, response_only=True)
TASK = OpenApiExample("Response", _DETAIL, response_only=True)
CANCELED = OpenApiExample(
    "Archived",
    {"message": "task cancelled", "task_id": "task-uuid"},
    response_only=True,
    status_codes=["200"],
)
RUN = OpenApiExample("Response", {"message": "task pending", "task_id": "task-uuid"}, response_only=True)
ARCHIVED = OpenApiExample("Response", {"message": "task archived", "task_id": "task-uuid"}, response_only=True)
DELETED = OpenApiExample("Response", {"message": "task deleted", "task_id": "task-uuid"}, response_only=True)


def bulk_action(action: str) -> OpenApiExample:
    body = {
        "queue": "inference_high",
        "action": action,
        "state": "retry",
        "dry_run": False,
        "matched": 12,
        "affected": 12,
    }
    return OpenApiExample("Response", body, response_only=True)


_QUEUED_INFO = {"id": "task-uuid", "queue": "inference_high"}

ENQUEUE_BODY = OpenApiExample(
    "A task",
    request_only=True,
    value={"queue": "inference_high", "timeout": 300, "data": {"prompt": "Hello world", "width": 1024}},
)
ENQUEUED = OpenApiExample(
    "Queued",
    {"info": {**_QUEUED_INFO, "state": "pending"}},
    response_only=True,
    status_codes=["200"],
)
BATCH_BODY = OpenApiExample(
    "Two tasks",
    request_only=True,
    value={
        "queue": "inference_high",
        "timeout": 300,
        "jobs": [{"prompt": "Hello world"}, {"timeout": 60, "data": {"prompt": "Hello again"}}],
    },
)
BATCH_ENQUEUED = OpenApiExample(
    "Both queued",
    response_only=True,
    status_codes=["200"],
    value={
        "enqueued": 2,
        "failed": 0,
        "task_ids": ["task-uuid-1", "task-uuid-2"],
        "errors": [None, None],
        "codes": [None, None],
        "existing": [],
    },
)
TASK_ENDED = OpenApiExample(
    "Response",
    {"info": {**_QUEUED_INFO, "state": "completed", "result": "..."}},
    response_only=True,
    status_codes=["200"],
)
EVENTS = OpenApiExample(
    "A task that is completed",
    "id: 0-0-pending-0\nevent: state\n"
    'data: {"id":"task-uuid","queue":"inference_high","state":"pending","attempts":0}\n\n'
    "id: 1-0-active-1\nevent: state\n"
    'data: {"id":"task-uuid","queue":"inference_high","state":"active","attempts":1}\n\n'
    'event: progress\ndata: {"id":"task-uuid","queue":"inference_high","progress":{"current":3,"total":10,"message":'
    '"resizing"}}\n\n'
    'id: 1-1-active-1\nevent: chunk\ndata: {"id":"task-uuid","queue":"inference_high","run":1,"chunk":"Hello"}\n\n'
    'id: 1-2-active-1\nevent: chunk\ndata: {"id":"task-uuid","queue":"inference_high","run":1,"chunk":" world"}\n\n'
    'id: 1-2-completed-1\nevent: end\ndata: {"info":{"id":"task-uuid","state":"completed","result":"Hello world"}}\n\n',
    response_only=True,
    status_codes=["200"],
    media_type="text/event-stream",
)
STREAM = OpenApiExample(
    "A text",
    "Hello world",
    response_only=True,
    status_codes=["200"],
    media_type="text/plain",
)
LOGS = OpenApiExample(
    "Response",
    {
        "id": "task-uuid",
        "queue": "inference_high",
        "attempt": 2,
        "attempts": [1, 2],
        "text": "loading the model\n3 of 10\n",
        "truncated": False,
        "shared": False,
    },
    response_only=True,
    status_codes=["200"],
)
