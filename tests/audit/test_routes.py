"""Every route that changes something leaves a record that names the key."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone
from drf_spectacular.generators import SchemaGenerator

from alerts.kinds import AlertKind
from alerts.models import Alert
from alerts.operations import store_findings
from alerts.rules import Finding
from queues.models import Release, ReleaseState
from runqy.broker.workers.heartbeats import write_heartbeat
from runqy.redis_connection import get_broker
from tests.api.client import ApiClient, Response
from tests.support.audit import audit_records
from tests.support.workers import RECORD

pytestmark = pytest.mark.usefixtures("configuration")

TRAFFIC = {
    "enqueue_task",
    "enqueue_batch",
    "create_task",
    "register_worker",
    "create_batch",
    "add_to_batch",
    "close_batch",
    "receive_push",
}
"""What clients and workers do all day."""

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


def roll_out_another() -> None:
    """Make the release that is rolling out live, and roll out another one."""
    Release.objects.update(state=ReleaseState.LIVE, live_at=timezone.now())
    release = Release.objects.get()
    release.pk, release.number, release.state, release.live_at = None, 2, ReleaseState.ROLLING_OUT, None
    release.save()


def steps(client: ApiClient) -> Iterator[tuple[str, Response, list[str]]]:  # noqa: PLR0915 (one for each route)
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
    roll_out_another()
    yield "roll_back_queue", client.post(f"{queue}/rollback"), ["queue.rolled_back"]
    yield "disable_queue", client.post(f"{queue}/disable"), ["queue.updated"]
    yield "enable_queue", client.post(f"{queue}/enable"), ["queue.updated"]
    broker = get_broker()
    broker.run(write_heartbeat(replace(RECORD, worker_id="w-1"), now_ns=broker.now_ns()))
    worker = "/api/cli/workers/w-1"
    yield "drain_worker", client.post(f"{worker}/drain"), ["worker.drain_requested"]
    yield "restart_worker", client.post(f"{worker}/restart"), ["worker.restart_requested"]
    yield "stop_worker", client.post(f"{worker}/stop"), ["worker.stop_requested"]
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
    yield from schedule_steps(client)
    yield from batch_steps(client)
    bulk = client.post("/api/bulk-actions", {"action": "run", "state": "archived", "queue": "mail"})
    yield "create_bulk_action", bulk, ["bulk_action.created"]
    yield "cancel_bulk_action", client.post(f"{bulk['Location']}/cancel"), ["bulk_action.canceled"]
    yield "run_tasks", client.post(f"{queue}/tasks/run?state=archived"), ["tasks.run"]
    yield "delete_tasks", client.post(f"{queue}/tasks/delete?state=pending"), ["tasks.deleted"]
    yield from webhook_steps(client)
    yield from alert_steps(client)
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


def schedule_steps(client: ApiClient) -> Iterator[tuple[str, Response, list[str]]]:
    schedule = {"name": "nightly", "queue": "mail", "cron": "@daily"}
    yield "create_schedule", client.post("/api/schedules", schedule), ["schedule.created"]
    hourly = client.put("/api/schedules/nightly", schedule | {"cron": "@hourly"})
    yield "replace_schedule", hourly, ["schedule.changed"]
    yield "trigger_schedule", client.post("/api/schedules/nightly/trigger"), ["schedule.triggered"]
    yield "pause_schedule", client.post("/api/schedules/nightly/pause", {"reason": "holiday"}), ["schedule.paused"]
    yield "unpause_schedule", client.post("/api/schedules/nightly/unpause"), ["schedule.unpaused"]
    yield "delete_schedule", client.delete("/api/schedules/nightly"), ["schedule.deleted"]


def webhook_steps(client: ApiClient) -> Iterator[tuple[str, Response, list[str]]]:
    """Use each route of webhooks that changes something."""
    endpoint = {"url": "https://hooks.example.com/runqy", "events": ["task.completed"], "queues": ["mail"]}
    webhook = client.post("/api/webhooks", endpoint)
    yield "create_webhook", webhook, ["webhook.created"]
    path = webhook["Location"]
    yield "change_webhook", client.patch(path, {"include_result": True}), ["webhook.updated"]
    yield "rotate_webhook_secret", client.post(f"{path}/rotate"), ["webhook.secret_rotated"]
    yield "send_test_event", client.post(f"{path}/test"), ["webhook.tested"]
    yield "resend_webhook_deliveries", client.post(f"{path}/resend", {"failed": True}), ["webhook.resent"]
    yield "delete_webhook", client.delete(path), ["webhook.deleted"]
    etag = client.get("/api/cli/configs/mail")["ETag"]
    hosts = CONFIG | {"webhook_hosts": ["hooks.example.com"]}
    assert client.put("/api/cli/configs/mail", hosts, **{"If-Match": etag}).status_code == 200
    etag = client.get("/api/cli/configs/mail")["ETag"]
    pushed = hosts | {"deployment": CONFIG["deployment"] | {"release": "push"}}  # type: ignore[operator]
    assert client.put("/api/cli/configs/mail", pushed, **{"If-Match": etag}).status_code == 200
    secret = "/api/cli/queues/mail/git-hook-secret"
    with_push = ["queue.updated", "queue.updated", "queue.git_hook_secret_shown"]
    yield "show_git_hook_secret", client.post(secret), with_push
    yield "rotate_git_hook_secret", client.post(f"{secret}/rotate"), ["queue.git_hook_secret_rotated"]
    secret = "/api/cli/queues/mail/webhook-secret"
    yield "show_queue_webhook_secret", client.post(secret), ["queue.webhook_secret_shown"]
    rotated = client.post(f"{secret}/rotate")
    yield "rotate_queue_webhook_secret", rotated, ["queue.webhook_secret_rotated"]


def alert_steps(client: ApiClient) -> Iterator[tuple[str, Response, list[str]]]:
    finding = Finding(kind=AlertKind.FAILURE_RATE, subject="mail", queue="mail", message="Mail fails.")
    store_findings([finding], now=timezone.now())
    alert = {"alert": Alert.objects.get(subject="mail").pk}
    yield "acknowledge_alerts", client.post("/api/alerts/acknowledge", alert), ["alert.acknowledged"]
    until = {"queue": "mail", "until": (timezone.now() + timedelta(hours=1)).isoformat()}
    yield "snooze_alerts", client.post("/api/alerts/snooze", until), ["queue.alerts_snoozed"]
    yield "resume_alerts", client.post("/api/alerts/resume", alert), ["alert.resumed"]


def batch_steps(client: ApiClient) -> Iterator[tuple[str, Response, list[str]]]:
    batch = client.post("/batches", {"name": "b"})
    yield "cancel_batch", client.post(f"{batch['Location']}/cancel"), ["batch.canceled"]


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
