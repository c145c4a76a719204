"""Examples for the schema."""

from drf_spectacular.utils import OpenApiExample

QUEUE_LIST = OpenApiExample("Response", {"queues": ["inference", "thumbnail"]}, response_only=True)
REGISTRATION_BODY = OpenApiExample(
    "Request",
    {
        "worker_id": "worker-abc123",
        "queue": "inference",
        "accepts": ["redis_acl"],
        "instance_id": "2f1c7a52-9f0b-4c1e-8a43-0d2a5c7e9b16",
    },
    request_only=True,
)
REGISTRATION = OpenApiExample(
    "Response",
    {
        "worker_id": "worker-abc123",
        "lease_secs": 30,
        "archive_max_tasks": 10000,
        "task_output": True,
        "redis": {
            "addr": "localhost:6379",
            "password": "0d9c…",
            "db": 0,
            "use_tls": False,
            "username": "runqy-w-6f0c1b2a9d8e7f6a5b4c3d2e",
            "mode": "single",
            "addresses": ["localhost:6379"],
            "master_name": "",
            "ca_certificate": "",
            "sentinel_username": "",
            "sentinel_password": "",
        },
        "queue": {
            "name": "inference",
            "priority": 6,
            "mode": "long_running",
            "order": "weighted",
            "revision": "1705314600000",
        },
        "release": {
            "number": 7,
            "commit": "9f2c41d7a86b35e0c4d18f7a2b6e93055d0c1a4f",
            "requires_ref": False,
            "keep_previous": False,
            "goes_back_to": 0,
        },
        "sub_queues": [{"name": "inference", "priority": 6}],
        "deployment": {
            "git_url": "https://github.com/example/repo.git",
            "branch": "main",
            "code_path": "",
            "startup_cmd": "python main.py",
            "mode": "long_running",
            "startup_timeout_secs": 300,
            "startup_silence_secs": 0,
            "child_concurrency": None,
            "requirements_file": "requirements.txt",
            "env_vars": {},
            "redis_storage": True,
            "hide_payloads": False,
            "vaults": ["api-keys"],
            "replace_first": False,
        },
        "replacements": {"queue": 0, "vault api-keys": 1},
        "limits": {
            "max_retry": 3,
            "ttl_completed_secs": 86400,
            "ttl_archived_secs": 259200,
            "pending_timeout_secs": 0,
            "active_timeout_secs": 1800,
            "retry_delay_secs": 15,
            "retry_max_delay_secs": 600,
        },
        "vaults": {"OPENAI_API_KEY": "sk-actual-decrypted-key", "HF_TOKEN": "hf-actual-decrypted-token"},
    },
    response_only=True,
    status_codes=["200"],
)

_WORKER = {
    "worker_id": "worker-abc123",
    "started_at": 1705314600,
    "last_beat": 1705322700,
    "concurrency": 1,
    "queues": "map[inference_high:10]",
    "status": "ready",
    "is_stale": False,
    "state": "ready",
    "reason": "",
    "disconnected_since": None,
    "queue": "inference",
    "redis_queues": {"inference_high": 10},
    "processes": 1,
    "running": [
        {
            "task_id": "task-uuid",
            "queue": "inference_high",
            "started_at": "2024-01-15T12:44:59.120000Z",
            "deadline": "2024-01-15T12:49:59Z",
        }
    ],
    "held": [],
    "last_take_at": "2024-01-15T12:44:59Z",
    "commit": "8b1c0de4f2a97c35d6e1b0a4958372615f4e3d2c",
    "commit_subject": "Read larger images",
    "commit_author": "Ada",
    "committed_at": "2024-01-15T09:12:00Z",
    "version": "1.0.0",
    "host": "gpu-1",
    "pid": 4711,
    "is_foreign": False,
}
ACTION_REQUEST = OpenApiExample(
    "Response",
    {
        "message": "drain requested",
        "worker_id": "worker-abc123",
        "workers": ["worker-abc123"],
        "is_connected": True,
    },
    response_only=True,
)
WORKER = OpenApiExample("Response", _WORKER, response_only=True)
WORKER_LIST = OpenApiExample(
    "Response",
    {"workers": [_WORKER], "lost": [], "count": 1, "processes": {"ready": 1, "not_ready": 0, "disconnected": 0}},
    response_only=True,
)
