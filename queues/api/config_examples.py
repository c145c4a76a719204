"""Requests and answers of the configuration routes."""

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
}
_REMOVED = {
    "message": "Queue 'inference' deleted successfully",
    "queue": "inference",
    "redis_queues": ["inference"],
    "removed": {"tasks": {"completed": 12, "archived": 1}, "keys": 6},
}


def _answer(value: object, status: int = 200) -> OpenApiExample:
    """Return an example of an answer."""
    return OpenApiExample("Answer", value, response_only=True, status_codes=[str(status)])


CONFIG = _answer(_QUEUE)
CONFIG_LIST = _answer({"queues": [_QUEUE], "count": 1})
CONFIG_BODY = OpenApiExample(
    "Request", {"name": "inference", "priority": 6, "deployment": _DEPLOYMENT}, request_only=True
)
CONFIG_CREATED = _answer({"queue": _QUEUE, "message": "Queue created successfully"}, 201)
CONFIG_UPDATED = OpenApiExample(
    "Updated",
    {"queue": _QUEUE, "message": "Queue updated successfully"},
    response_only=True,
    status_codes=["200"],
)
CONFIG_RELOADED = _answer(_RELOADED)
CONFIG_REMOVED = _answer(_REMOVED)
