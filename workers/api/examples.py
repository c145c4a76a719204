"""A registration as the reference shows it."""

from drf_spectacular.utils import OpenApiExample

REQUEST = OpenApiExample("Request", {"worker_id": "worker-abc123", "queue": "inference"}, request_only=True)
ANSWER = OpenApiExample(
    "Answer",
    {
        "worker_id": "worker-abc123",
        "lease_secs": 30,
        "redis": {
            "addr": "localhost:6379",
            "password": "",
            "db": 0,
            "use_tls": False,
            "username": "",
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
        "sub_queues": [{"name": "inference", "priority": 6}],
        "deployment": {
            "git_url": "https://github.com/example/repo.git",
            "branch": "main",
            "startup_cmd": "python main.py",
            "startup_timeout_secs": 300,
            "requirements_file": "requirements.txt",
            "vaults": ["api-keys"],
        },
        "limits": {"max_retry": 3, "active_timeout_secs": 1800},
        "vaults": {"OPENAI_API_KEY": "sk-actual-decrypted-key", "HF_TOKEN": "hf-actual-decrypted-token"},
    },
    response_only=True,
    status_codes=["200"],
)
