"""Examples of the routes of queues and their configuration, for the schema."""

from typing import Any

from drf_spectacular.utils import OpenApiExample

_DEPLOYMENT = {
    "git_url": "https://github.com/example/repo.git",
    "branch": "main",
    "startup_cmd": "python main.py",
    "mode": "long_running",
    "startup_timeout_secs": 300,
    "requirements_file": "requirements.txt",
    "vaults": ["api-keys"],
}
_QUEUE = {
    "name": "inference",
    "priority": 6,
    "queue": "inference",
    "sub_queue": None,
    "is_enabled": True,
    "mode": "long_running",
    "order": "weighted",
    "sub_queues": [],
    "deployment": {
        **_DEPLOYMENT,
        "code_path": "",
        "env_vars": {},
        "redis_storage": True,
        "git_token": "",
        "limits": {"max_retry": 3},
    },
    "input": [],
    "output": [],
    "source": "api",
    "created_at": "2024-01-15T10:30:00Z",
    "updated_at": "2024-01-15T10:30:00Z",
}
_RELOADED = {
    "reloaded": ["inference"],
    "errors": ["queue_workers/mail.yaml:4: queues.mail.deployment.branch: it is not the name of a branch"],
    "timestamp": 1705314600,
    "added": ["inference"],
    "updated": [],
    "unchanged": ["simple"],
    "missing": [],
    "overwritten": [],
    "removed": [],
    "unserved": ["inference"],
    "problems": [
        {
            "file": "queue_workers/mail.yaml",
            "line": 4,
            "key": "queues.mail.deployment.branch",
            "reason": "it is not the name of a branch",
        }
    ],
    "published": True,
}
_DELETED = {
    "message": "Queue 'inference' deleted successfully",
    "queue": "inference",
    "redis_queues": ["inference"],
    "removed": {"tasks": {"completed": 12, "archived": 1}, "keys": 6},
    "published": True,
}
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


def _response(value: object, status: int = 200) -> OpenApiExample:
    return OpenApiExample("Response", value, response_only=True, status_codes=[str(status)])


CONFIG = _response(_QUEUE)
CONFIG_LIST = _response({"queues": [_QUEUE], "count": 1})
CONFIG_BODY = OpenApiExample(
    "Request", {"name": "inference", "priority": 6, "deployment": _DEPLOYMENT}, request_only=True
)
CONFIG_CREATED = _response({"queue": _QUEUE, "message": "Queue created successfully", "published": True}, 201)
CONFIG_UPDATED = OpenApiExample(
    "Updated",
    {"queue": _QUEUE, "message": "Queue updated successfully", "published": True},
    response_only=True,
    status_codes=["200"],
)
CONFIG_RELOADED = _response(_RELOADED)
CONFIG_DELETED = _response(_DELETED)
QUEUE_LIST = _response({"queues": [_STATUS], "count": 1})
QUEUE_DETAIL = _response(_DETAIL)
PAUSED = _response({"message": "queue paused", "queue": "inference_high", "paused": True})
UNPAUSED = _response({"message": "queue unpaused", "queue": "inference_high", "paused": False})
REDEPLOYED = _response(
    {"message": "redeployment requested", "queue": "inference", "workers": ["worker-abc123"], "published": True}
)
