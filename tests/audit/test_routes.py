"""Every route that changes something leaves a record that names the key."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from drf_spectacular.generators import SchemaGenerator

from runqy.audit.queries import verify_chain
from tests.api.client import ApiClient, Response
from tests.support.audit import audit_records

pytestmark = pytest.mark.usefixtures("configuration")

TRAFFIC = {"enqueue_task", "enqueue_batch", "create_task", "register_worker"}
"""What clients and workers do all day: it needs no database."""

CONFIG = {"name": "mail", "priority": 5, "deployment": {"git_url": "https://h/r.git", "startup_cmd": "python main.py"}}
QUEUE_FILE = """
queues:
  loaded:
    priority: 1
    deployment: {git_url: https://h/r.git, startup_cmd: python main.py}
"""


def add_task(client: ApiClient) -> str:
    """Add a task that waits for its time, and return its id."""
    added = client.post("/queue/add", {"queue": "mail", "data": {}, "delay": "1h"})
    task_id: str = json.loads(added.content)["info"]["id"]
    return task_id


def steps(client: ApiClient) -> Iterator[tuple[str, Response, list[str]]]:
    """Use each route that changes something; yield its operation, response and expected actions."""
    queue = "/api/cli/queues/mail"
    yield "create_config", client.post("/api/cli/configs", CONFIG), ["queue.created"]
    etag = client.get("/api/cli/configs/mail")["ETag"]
    changed = client.put("/api/cli/configs/mail", CONFIG | {"priority": 6}, **{"If-Match": etag})
    yield "replace_config", changed, ["queue.updated"]
    yield "reload_configs", client.post("/api/cli/configs/reload"), ["queue.created"]
    yield "pause_queue", client.post(f"{queue}/pause"), ["queue.paused"]
    yield "unpause_queue", client.post(f"{queue}/unpause"), ["queue.unpaused"]
    yield "redeploy_queue", client.post(f"{queue}/redeploy"), ["queue.redeployed"]
    yield "disable_queue", client.post(f"{queue}/disable"), ["queue.updated"]
    yield "enable_queue", client.post(f"{queue}/enable"), ["queue.updated"]
    files = [{"name": "applied.yaml", "content": QUEUE_FILE.replace("loaded", "applied")}]
    yield "apply_configs", client.post("/api/cli/configs/apply", {"files": files}), ["queue.created"]
    yield "cancel_task", client.delete(f"/api/cli/tasks/{add_task(client)}"), ["task.canceled"]
    yield "delete_task", client.delete(f"{queue}/tasks/{add_task(client)}"), ["task.deleted"]
    task = f"{queue}/tasks/{add_task(client)}"
    yield "archive_task", client.post(f"{task}/archive"), ["task.archived"]
    yield "run_task", client.post(f"{task}/run"), ["task.run"]
    add_task(client)
    yield "release_tasks", client.post(f"{queue}/tasks/release?state=scheduled"), ["tasks.released"]
    yield "archive_tasks", client.post(f"{queue}/tasks/archive?state=retry"), ["tasks.archived"]
    bulk = client.post("/api/bulk-actions", {"action": "run", "state": "archived", "queue": "mail"})
    yield "create_bulk_action", bulk, ["bulk_action.created"]
    yield "cancel_bulk_action", client.post(f"{bulk['Location']}/cancel"), ["bulk_action.canceled"]
    yield "run_tasks", client.post(f"{queue}/tasks/run?state=archived"), ["tasks.run"]
    yield "delete_tasks", client.post(f"{queue}/tasks/delete?state=pending"), ["tasks.deleted"]
    deletion = ["queue.updated", "queue.deleted"]  # it takes no tasks any more before it goes
    yield "delete_config", client.delete("/api/cli/configs/mail?force=true"), deletion
    yield "create_vault", client.post("/api/vaults", {"name": "v"}), ["vault.created"]
    entry = client.post("/api/vaults/v/entries", {"key": "A", "value": "1"})
    yield "set_vault_entry", entry, ["vault_entry.set"]
    yield "put_vault_entry", client.put("/api/vaults/v/entries/A", {"value": "2"}), ["vault_entry.set"]
    entries = client.patch("/api/vaults/v/entries", {"values": {"A": "2", "B": "3"}})
    yield "set_vault_entries", entries, ["vault_entry.set"]
    yield "delete_vault_entry", client.delete("/api/vaults/v/entries/A"), ["vault_entry.deleted"]
    yield "delete_vault", client.delete("/api/vaults/v"), ["vault.deleted"]
    created = client.post("/api/keys", {"name": "shop"})
    yield "create_api_key", created, ["api_key.created"]
    yield "revoke_api_key", client.delete(created["Location"]), ["api_key.revoked"]


def writing_operations() -> set[str]:
    """Return the operations of the schema that may change something, without the aliases."""
    paths: dict[str, dict[str, Any]] = SchemaGenerator().get_schema(public=True)["paths"]  # type: ignore[no-untyped-call]
    operations = [(method, operation) for methods in paths.values() for method, operation in methods.items()]
    return {
        operation["operationId"]
        for method, operation in operations
        if method != "get" and not operation.get("deprecated")
    }


def test_every_route_that_changes_something_is_recorded_with_its_key(settings: Any, tmp_path: Path) -> None:
    (tmp_path / "loaded.yaml").write_text(QUEUE_FILE)
    settings.QUEUE_WORKERS_DIR = tmp_path
    used = set()
    seen = 0

    for operation, response, actions in steps(ApiClient()):
        assert response.status_code < 300, (operation, response.content)
        rows = audit_records().filter(number__gt=seen).order_by("number")
        assert [row.action for row in rows] == actions, operation
        assert {(row.actor_kind, row.actor_name) for row in rows} == {("key", "admin key of the environment")}
        seen += len(rows)
        used.add(operation)

    assert used == writing_operations() - TRAFFIC
    assert verify_chain().breaks == []
