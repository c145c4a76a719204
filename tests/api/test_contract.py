"""The documented API: each request returns the documented status and fields."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from queues import deletion
from queues.definitions import Deployment
from queues.models import QueueSource
from queues.operations import save_queue
from runqy.broker.broker import Broker
from tests.api.client import ApiClient, Response, problem
from tests.queues.samples import spec
from tests.support.tasks import take_one
from tests.tasks.task_helpers import succeed
from vaults.operations import create_vault, set_entry

CONFIG = {
    "name": "images",
    "priority": 3,
    "deployment": {"git_url": "https://github.com/example/repo.git", "branch": "main", "startup_cmd": "python main.py"},
}
TASK = {"queue": "inference_high", "timeout": 300, "data": {"prompt": "Hello world", "width": 1024}}
ENTRY_FIELDS = {"key", "value", "is_secret", "created_at", "updated_at"}
QUEUE_FIELDS = {
    *("queue", "pending", "active", "scheduled", "retry", "archived", "completed"),
    *("paused", "memory_usage"),
}
TASK_FIELDS = {
    *("id", "type", "queue", "state", "payload", "max_retry", "retried", "last_err"),
    *("timeout", "deadline", "next_process_at", "completed_at", "result"),
}
WORKER_FIELDS = {"worker_id", "started_at", "last_beat", "concurrency", "queues", "status", "is_stale"}


@pytest.fixture
def client(configuration: None, monkeypatch: pytest.MonkeyPatch) -> ApiClient:
    """Return an administrator's client, and create the queue, the vault and the task of the documentation."""
    monkeypatch.setattr(deletion, "PROPAGATION_S", 0)
    deployment = Deployment(
        git_url="https://github.com/example/repo.git", startup_cmd="python main.py", vaults=("api-keys",)
    )
    create_vault(name="api-keys", description="API keys for external services")
    set_entry(vault="api-keys", key="OPENAI_API_KEY", value="sk-actual-decrypted-keyz")
    save_queue(spec=spec("inference", "high:6", "low:3", deployment=deployment), source=QueueSource.API)
    return ApiClient()


def decode(response: Response, status: int = 200) -> Any:
    """Check the status of a response and return its body."""
    assert response.status_code == status, response.content
    return json.loads(response.content)


def test_a_worker_is_registered_with_what_it_needs(client: ApiClient) -> None:
    found = decode(client.post("/worker/register", {"worker_id": "worker-abc123", "queue": "inference"}))

    assert found.keys() >= {"redis", "queue", "deployment", "vaults"}
    assert found["redis"].keys() >= {"addr", "password", "db"}
    assert {name: found["queue"][name] for name in ("name", "priority", "mode")} == {
        "name": "inference",
        "priority": 6,
        "mode": "long_running",
    }
    assert (
        found["deployment"]
        | {
            "git_url": "https://github.com/example/repo.git",
            "branch": "main",
            "startup_cmd": "python main.py",
            "startup_timeout_secs": 1800,
            "startup_silence_secs": 600,
            "requirements_file": "requirements.txt",
            "vaults": ["api-keys"],
        }
        == found["deployment"]
    )
    assert found["vaults"] == {"OPENAI_API_KEY": "sk-actual-decrypted-keyz"}


@pytest.mark.parametrize("path", ["/queue/add", "/api/cli/tasks"])
def test_a_task_is_added(client: ApiClient, each_plane: str, path: str) -> None:
    info = decode(client.post(path, TASK))["info"]

    assert (info["queue"], info["state"]) == ("inference_high", "pending")
    assert info.keys() >= TASK_FIELDS
    assert isinstance(info["timeout"], str)


def test_a_tasks_state_and_result_are_returned(client: ApiClient, each_plane: str, single_broker: Broker) -> None:
    task_id = decode(client.post("/queue/add", TASK))["info"]["id"]
    succeed(single_broker, take_one(single_broker, "inference_high"), b'{"ok":true}')

    info = decode(client.get(f"/queue/{task_id}"))["info"]

    assert (info["id"], info["queue"], info["state"], info["result"]) == (
        *(task_id, "inference_high", "completed"),
        {"ok": True},
    )


def test_queues_are_listed_shown_and_paused(client: ApiClient) -> None:
    listed = decode(client.get("/api/cli/queues"))
    detail = decode(client.get("/api/cli/queues/inference_high"))

    assert [queue["queue"] for queue in listed["queues"]] == ["inference_high", "inference_low"]
    assert all(queue.keys() >= QUEUE_FIELDS for queue in [*listed["queues"], detail])
    for verb, is_paused in (("pause", True), ("pause", True), ("unpause", False), ("unpause", False)):
        decode(client.post(f"/api/cli/queues/inference_high/{verb}"))
        assert decode(client.get("/api/cli/queues/inference_high"))["paused"] is is_paused


def test_the_tasks_of_a_queue_are_listed_shown_cancelled_and_deleted(client: ApiClient) -> None:
    first, second = (decode(client.post("/api/cli/tasks", TASK))["info"]["id"] for _ in range(2))
    tasks = "/api/cli/queues/inference_high/tasks"

    listed = decode(client.get(f"{tasks}?state=pending&limit=10"))

    assert [task["id"] for task in listed["tasks"]] == [first, second]
    assert all(task.keys() >= TASK_FIELDS for task in [*listed["tasks"], decode(client.get(f"{tasks}/{first}"))])
    decode(client.delete(f"/api/cli/tasks/{first}"))
    assert decode(client.get(f"{tasks}/{first}"))["state"] == "archived"
    decode(client.delete(f"{tasks}/{second}"))
    assert problem(client.get(f"{tasks}/{second}"))["status"] == 404


def test_workers_are_listed(client: ApiClient) -> None:
    assert decode(client.get("/api/cli/workers")) == {
        "workers": [],
        "lost": [],
        "count": 0,
        "processes": {"ready": 0, "not_ready": 0, "disconnected": 0},
    }
    assert problem(client.get("/api/cli/workers/nobody"))["code"] == "worker_not_found"


def test_configurations_are_listed_created_reloaded_and_deleted(client: ApiClient) -> None:
    made = decode(client.post("/api/cli/configs", CONFIG), 201)

    assert made.keys() >= {"queue", "message"}
    assert made["queue"].keys() >= {"name", "priority", "deployment"}
    listed = decode(client.get("/api/cli/configs"))
    assert listed["count"] == len(listed["queues"]) == 3
    assert client.post("/api/cli/configs", CONFIG).status_code == 409
    assert decode(client.post("/api/cli/configs?force=true", CONFIG))["message"] == "Queue updated successfully"
    assert decode(client.post("/api/cli/configs/reload")).keys() >= {"reloaded", "errors", "timestamp"}
    decode(client.delete("/api/cli/configs/images"))
    assert problem(client.delete("/api/cli/configs/images"))["status"] == 404


def test_vaults_are_listed_created_shown_and_deleted(client: ApiClient) -> None:
    about = {"name": "github", "description": "Tokens"}

    made = decode(client.post("/api/vaults", about), 201)
    assert made.items() >= {"message": "vault created successfully", "vault": about}.items()
    summary = {"name": "api-keys", "description": "API keys for external services", "entry_count": 1}
    listed = decode(client.get("/api/vaults"))
    assert listed["count"] == 2
    assert any(vault | summary == vault for vault in listed["vaults"])
    found = decode(client.get("/api/vaults/api-keys"))
    assert found.keys() >= {"name", "description", "entries", "created_at", "updated_at"}
    (entry,) = found["entries"]
    assert entry.keys() >= ENTRY_FIELDS
    assert (entry["key"], entry["value"], entry["is_secret"]) == ("OPENAI_API_KEY", "sk****yz", True)
    assert decode(client.delete("/api/vaults/github"))["message"] == "vault deleted successfully"


def test_entries_are_set_listed_and_deleted(client: ApiClient) -> None:
    entries = "/api/vaults/api-keys/entries"
    body = {"key": "HF_TOKEN", "value": "hf-your-key-here", "is_secret": False}

    assert decode(client.post(entries, body)).items() >= {"message": "entry set successfully"}.items()
    listed = decode(client.get(entries))
    assert listed["count"] == len(listed["entries"]) == 2
    assert {entry["key"]: entry["value"] for entry in listed["entries"]}["HF_TOKEN"] == "hf-your-key-here"
    assert decode(client.delete(f"{entries}/HF_TOKEN"))["message"] == "entry deleted successfully"


class Refusal(NamedTuple):
    """A documented error, and a request that produces it."""

    status: int
    method: str
    path: str
    body: Any = b""
    key: str | None = "admin"


TASK_REFUSALS = [
    Refusal(401, "get", "/queue/nothing", key=None),
    Refusal(404, "get", "/queue/nothing"),
    Refusal(400, "get", "/queue/nothing?wait=soon"),
    Refusal(404, "get", "/queue/nothing/events"),
    Refusal(404, "get", "/queue/nothing/stream"),
    Refusal(401, "post", "/queue/add", {"queue": "inference", "data": {}}, "wrong"),
    Refusal(400, "post", "/queue/add", b"{"),
    Refusal(404, "post", "/queue/add", {"queue": "nothing", "data": {}}),
    Refusal(400, "post", "/queue/add-batch", {"queue": "inference_high"}),
    Refusal(404, "post", "/queue/add-batch", {"queue": "nothing", "jobs": [{}]}),
]
REFUSALS = [
    Refusal(401, "post", "/worker/register", {"queue": "inference"}, None),
    Refusal(401, "post", "/worker/register", {"queue": "inference"}, "wrong"),
    Refusal(400, "post", "/worker/register", {"queue": 1}),
    Refusal(404, "post", "/worker/register", {"queue": "nothing"}),
    Refusal(409, "post", "/api/vaults", {"name": "api-keys"}),
    Refusal(400, "post", "/api/vaults", {"name": "not a name"}),
    Refusal(404, "get", "/api/vaults/nothing"),
    Refusal(404, "delete", "/api/vaults/nothing"),
    Refusal(404, "post", "/api/vaults/nothing/entries", {"key": "A", "value": "1"}),
    Refusal(400, "post", "/api/vaults/api-keys/entries", {"key": "PATH", "value": "1"}),
    Refusal(400, "post", "/api/vaults/api-keys/entries", {"key": "A", "value": ""}),
    Refusal(404, "delete", "/api/vaults/api-keys/entries/NOTHING"),
    Refusal(404, "get", "/api/cli/queues/nothing"),
    Refusal(404, "post", "/api/cli/queues/nothing/pause"),
    Refusal(404, "get", "/api/cli/queues/nothing/tasks"),
    Refusal(404, "get", "/api/cli/queues/inference_high/tasks/nothing"),
    Refusal(404, "delete", "/api/cli/tasks/nothing"),
    Refusal(404, "delete", "/api/cli/queues/inference_high/tasks/nothing"),
    Refusal(404, "delete", "/api/cli/configs/nothing"),
]


def name_of(refusal: Refusal) -> str:
    """Return the name of a test's parameter."""
    return f"{refusal.status} {refusal.method} {refusal.path}"


@pytest.mark.parametrize("refusal", TASK_REFUSALS, ids=name_of)
def test_errors_about_tasks_are_as_documented(client: ApiClient, each_plane: str, refusal: Refusal) -> None:
    assert_refused(client, refusal)


@pytest.mark.parametrize("refusal", REFUSALS, ids=name_of)
def test_errors_are_as_documented(client: ApiClient, refusal: Refusal) -> None:
    assert_refused(client, refusal)


def assert_refused(client: ApiClient, refusal: Refusal) -> None:
    """Check that a request gets the documented error."""
    asking = client if refusal.key == "admin" else ApiClient(refusal.key)
    ask = getattr(asking, refusal.method)

    response = ask(refusal.path, refusal.body) if refusal.method == "post" else ask(refusal.path)

    assert problem(response)["status"] == refusal.status


def vault_requests() -> Iterator[tuple[str, str, Any]]:
    """Give every documented request about vaults."""
    yield "get", "/api/vaults", None
    yield "post", "/api/vaults", {"name": "v"}
    yield "get", "/api/vaults/api-keys", None
    yield "delete", "/api/vaults/api-keys", None
    yield "post", "/api/vaults/api-keys/entries", {"key": "A", "value": "1"}
    yield "get", "/api/vaults/api-keys/entries", None
    yield "delete", "/api/vaults/api-keys/entries/OPENAI_API_KEY", None


@pytest.mark.parametrize(("method", "path", "body"), list(vault_requests()))
def test_without_a_master_key_vaults_are_unavailable(
    client: ApiClient, settings: Any, method: str, path: str, body: Any
) -> None:
    settings.RUNQY_VAULT_MASTER_KEY = ""

    ask = getattr(client, method)
    response = ask(path, body) if body is not None else ask(path)

    assert problem(response)["status"] == 503
