"""Examples of the traffic of queues, for the schema."""

from typing import Any

from drf_spectacular.utils import OpenApiExample

_STATUS: dict[str, Any] = {
    "queue": "inference_high",
    "pending": 12,
    "active": 2,
    "scheduled": 1,
    "retry": 0,
    "archived": 3,
    "completed": 240,
    "paused": True,
    "memory_usage": 204800,
    "aggregating": 0,
    "size": 258,
    "oldest_pending_secs": 4.25,
    "processed_today": 251,
    "failed_today": 3,
    "processed": 10251,
    "failed": 41,
    "priority": 10,
    "parent": "inference",
    "is_defined": True,
    "is_enabled": True,
}
_DETAIL = _STATUS | {
    "paused_by": "ops",
    "paused_since": "2024-01-15T12:45:00Z",
    "history": [{"date": "2024-01-15", "processed": 251, "failed": 3}],
    "workers": ["worker-abc123"],
}
QUEUE_LIST = OpenApiExample("Answer", {"queues": [_STATUS], "count": 1}, response_only=True)
QUEUE_DETAIL = OpenApiExample("Answer", _DETAIL, response_only=True)
PAUSED = OpenApiExample(
    "Answer", {"message": "queue paused", "queue": "inference_high", "paused": True}, response_only=True
)
UNPAUSED = OpenApiExample(
    "Answer", {"message": "queue unpaused", "queue": "inference_high", "paused": False}, response_only=True
)
REDEPLOYED = OpenApiExample(
    "Answer",
    {"message": "redeployment requested", "queue": "inference", "workers": ["worker-abc123"]},
    response_only=True,
)
