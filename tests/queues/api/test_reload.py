"""Reloading the queue files over HTTP."""

from pathlib import Path
from typing import Any

import pytest

from queues.models import Queue
from runqy.accounts.operations import create_api_key
from runqy.broker.broker import Broker
from runqy.broker.workers.heartbeats import write_heartbeat
from runqy.broker.workers.records import WorkerRecord
from runqy.core.api_keys import Role
from tests.api.client import ApiClient
from tests.queues.api.configs import BODY, content, refusal, sub_queues


def write(directory: Path, name: str, text: str) -> None:
    """Write a queue file."""
    (directory / name).write_text(text)


@pytest.mark.parametrize("path", ["/api/cli/configs/reload", "/workers/reload"])
def test_queue_files_are_loaded_and_errors_have_file_and_line(
    client: ApiClient, settings: Any, tmp_path: Path, path: str
) -> None:
    settings.QUEUE_WORKERS_DIR = tmp_path
    write(tmp_path, "a.yaml", "queues:\n  mail: {priority: 1, deployment: {git_url: 'https://h/r', startup_cmd: x}}\n")
    write(tmp_path, "b.yaml", "queues:\n  sms: {priority: 1, deployment: {git_url: 'https://h/r'}}\n")

    found = content(client.post(path))

    key, reason = "queues.sms.deployment.startup_cmd", "This field is required."
    assert found.pop("timestamp") > 1_700_000_000
    assert found == {
        "reloaded": ["mail"],
        "errors": [f"{tmp_path}/b.yaml:2: {key}: {reason}"],
        "added": ["mail"],
        "updated": [],
        "unchanged": [],
        "missing": [],
        "overwritten": [],
        "removed": [],
        "unserved": ["mail"],
        "schedules": {"added": [], "updated": [], "unchanged": [], "missing": [], "removed": []},
        "problems": [{"file": f"{tmp_path}/b.yaml", "line": 2, "key": key, "reason": reason}],
        "warnings": [],
        "published": True,
    }
    assert sub_queues("mail") == [("mail", 1)]
    again = content(client.post(path))
    assert (again["reloaded"], again["unchanged"]) == (["mail"], ["mail"])


@pytest.mark.usefixtures("stopped_clock")
def test_reloading_names_the_queues_that_no_worker_serves(
    client: ApiClient, single_broker: Broker, settings: Any, tmp_path: Path
) -> None:
    settings.QUEUE_WORKERS_DIR = tmp_path
    deployment = "deployment: {git_url: 'https://h/r', startup_cmd: x}"
    subs = "sub_queues: [{name: high, priority: 2}, {name: low, priority: 1}]"
    write(tmp_path, "a.yaml", f"queues:\n  mail: {{priority: 1, {deployment}}}\n  text: {{{subs}, {deployment}}}\n")
    serves = {"redis_queues": {"text_high": 2, "mail": 1}, "host": "h", "pid": 1, "started_at_s": 1}
    record = WorkerRecord(worker_id="w", server_id="s", queue="text", **serves)

    before = content(client.post("/api/cli/configs/reload"))["unserved"]
    single_broker.run(write_heartbeat(record, now_ns=single_broker.now_ns()))
    after = content(client.post("/api/cli/configs/reload"))["unserved"]

    assert (before, after) == (["mail", "text_high", "text_low"], ["text_low"])


def test_missing_queues_are_deleted_by_prune(client: ApiClient, settings: Any, tmp_path: Path) -> None:
    settings.QUEUE_WORKERS_DIR = tmp_path
    write(tmp_path, "a.yaml", "queues:\n  mail: {priority: 1, deployment: {git_url: 'https://h/r', startup_cmd: x}}\n")
    client.post("/workers/reload")
    write(tmp_path, "a.yaml", "")

    assert content(client.post("/workers/reload"))["missing"] == ["mail"]
    assert content(client.post("/workers/reload?prune=true"))["removed"] == ["mail"]
    assert not Queue.objects.filter(name="mail").exists()


def test_a_missing_directory_is_an_error_in_the_response(client: ApiClient, settings: Any, tmp_path: Path) -> None:
    settings.QUEUE_WORKERS_DIR = tmp_path / "nowhere"

    found = content(client.post("/workers/reload"))

    assert found["errors"] == [f"{tmp_path}/nowhere: No such directory."]
    assert found["problems"][0]["line"] is None


def test_a_queue_may_be_called_reload(client: ApiClient) -> None:
    path = "/api/cli/configs/reload"
    client.post("/api/cli/configs", BODY | {"name": "reload"})
    limited = ApiClient(create_api_key(name="ops", role=Role.ADMIN, queues=["reload"]).plain)

    found = limited.get(path)
    changed = limited.put(path, BODY | {"name": "reload", "priority": 9}, **{"If-Match": found["ETag"]})

    assert content(found)["name"] == "reload"
    assert content(changed)["queue"]["priority"] == 9
    assert refusal(limited.post(path)) == (403, "forbidden")
    assert "reloaded" in content(client.post(path))
    assert content(limited.delete(path))["queue"] == "reload"
    assert refusal(client.get("/workers/reload")) == (405, "method_not_allowed")
