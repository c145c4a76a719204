"""Deleting the configuration of a queue with its tasks, without losing accepted ones."""

import json
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import redis as redis_py

from queues import deletion, pending_deletions
from queues.deletion import finish_deletions
from queues.models import Queue, QueueSource
from queues.operations import save_queue
from queues.queries import get_fresh_catalog
from runqy.audit.models import AuditRecord
from runqy.broker.constants import BATCH_MAX_TASKS
from runqy.configuration.snapshot import MAX_AGE_S
from runqy.redis_connection import get_broker
from tests.api.client import ApiClient, problem
from tests.queues.samples import spec
from tests.queues.stored import list_keys
from tests.support.redis_client import redis_of
from tests.support.tasks import put, take_one

PATHS = ("/api/cli/configs", "/workers/queues")
_STATES = ("pending", "active", "scheduled", "retry", "archived", "completed", "aggregating")


@pytest.fixture
def client(configuration: None, monkeypatch: pytest.MonkeyPatch) -> ApiClient:
    """Return an administrator's client; there are a queue without and one with two sub-queues."""
    monkeypatch.setattr(deletion, "PROPAGATION_S", 0)
    save_queue(spec=spec("mail"), source=QueueSource.FILE)
    save_queue(spec=spec("inference", "high:10", "low:3"), source=QueueSource.API)
    return ApiClient()


def removed(client: ApiClient, path: str) -> Any:
    """Delete a configuration and return the content of the response."""
    response = client.delete(path)
    assert response.status_code == 200, response.content
    return json.loads(response.content)


@pytest.mark.parametrize("path", PATHS)
def test_a_queue_without_tasks_is_deleted(client: ApiClient, redis: redis_py.Redis, path: str) -> None:
    assert removed(client, f"{path}/mail") == {
        "message": "Queue 'mail' deleted successfully",
        "queue": "mail",
        "redis_queues": ["mail"],
        "removed": {"tasks": dict.fromkeys(_STATES, 0), "keys": 0},
        "published": True,
    }
    assert not Queue.objects.filter(name="mail").exists()
    assert get_fresh_catalog(max_age_s=0).find("mail") is None


@pytest.mark.parametrize(("options", "state"), [({}, "pending"), ({"process_at_s": 2_000_000_000}, "scheduled")])
def test_a_queue_with_waiting_tasks_is_kept(client: ApiClient, options: dict[str, int], state: str) -> None:
    put(get_broker(), "t1", **options)

    response = client.delete("/api/cli/configs/mail")

    assert (response.status_code, problem(response)["code"]) == (409, "queue_not_empty")
    assert f"mail has 1 {state} task;" in problem(response)["detail"]
    assert Queue.objects.get(name="mail").is_enabled


def test_a_queue_with_active_tasks_is_kept(client: ApiClient) -> None:
    put(get_broker(), "t1")
    take_one(get_broker())

    assert client.delete("/api/cli/configs/mail").status_code == 409


def test_force_deletes_tasks_too_and_leaves_nothing(client: ApiClient, redis: redis_py.Redis) -> None:
    put(get_broker(), "t1", "t2", "t3")
    take_one(get_broker())

    found = removed(client, "/api/cli/configs/mail?force=true")

    assert found["removed"]["tasks"] == dict.fromkeys(_STATES, 0) | {"pending": 2, "active": 1}
    assert list_keys(redis) == []


def test_a_sub_queue_is_deleted_alone(client: ApiClient, redis: redis_py.Redis) -> None:
    put(get_broker(), "t1", queue="inference_low")
    put(get_broker(), "t2", queue="inference_high")

    assert client.delete("/workers/queues/inference.low").status_code == 409
    found = removed(client, "/workers/queues/inference.low?force=true")

    assert (found["redis_queues"], found["removed"]["tasks"]["pending"]) == (["inference_low"], 1)
    assert get_fresh_catalog(max_age_s=0).redis_queues() == ["inference_high", "mail"]
    assert [name for name in list_keys(redis) if "low" in name] == []
    assert redis.llen("asynq:{inference_high}:pending") == 1


def test_deleting_the_last_sub_queue_deletes_the_queue(client: ApiClient) -> None:
    removed(client, "/workers/queues/inference.low")
    removed(client, "/workers/queues/inference.high")

    assert not Queue.objects.filter(name="inference").exists()


def test_the_own_name_of_a_queue_deletes_all_its_sub_queues(client: ApiClient) -> None:
    assert removed(client, "/workers/queues/inference")["redis_queues"] == ["inference_high", "inference_low"]


@pytest.mark.parametrize("name", ["mail", "inference_low"])
def test_a_late_task_keeps_the_queue(client: ApiClient, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    before = get_fresh_catalog(max_age_s=0).redis_queues()
    monkeypatch.setattr(deletion, "time", SimpleNamespace(sleep=lambda _: put(get_broker(), "t1", queue=name)))

    response = client.delete(f"/api/cli/configs/{name}")

    assert (response.status_code, problem(response)["code"]) == (409, "queue_not_empty")
    catalog = get_fresh_catalog(max_age_s=0)
    assert catalog.redis_queues() == before
    assert catalog.get_queue(name).is_enabled
    assert redis_of(get_broker()).llen(f"asynq:{{{name}}}:pending") == 1


def test_a_deletion_waits_longer_than_a_snapshot_lives(configuration: None, monkeypatch: pytest.MonkeyPatch) -> None:
    save_queue(spec=spec("mail"), source=QueueSource.API)
    waits: list[float] = []
    monkeypatch.setattr(deletion, "time", SimpleNamespace(sleep=waits.append))

    removed(ApiClient(), "/api/cli/configs/mail")

    assert waits
    assert waits[0] > MAX_AGE_S


def test_a_deletion_is_recorded(client: ApiClient) -> None:
    put(get_broker(), "t1")

    removed(client, "/api/cli/configs/mail?force=true")

    actions = AuditRecord.objects.order_by("number").values_list("action", "object_name")
    assert [*actions][-2:] == [("queue.deleted", "mail"), ("queue.emptied", "mail")]
    assert json.loads(AuditRecord.objects.latest("number").changes) == {"tasks.pending": {"old": 1, "new": 0}}


@pytest.mark.parametrize(("max_at_once", "headers"), [(2, {}), (100, {"Prefer": "respond-async, wait=10"})])
def test_maintenance_deletes_the_tasks_of_a_large_queue(
    client: ApiClient,
    redis: redis_py.Redis,
    monkeypatch: pytest.MonkeyPatch,
    max_at_once: int,
    headers: dict[str, str],
) -> None:
    monkeypatch.setattr(deletion, "MAX_TASKS_AT_ONCE", max_at_once)
    put(get_broker(), "t1", "t2", "t3", queue="mail")

    response = client.delete("/api/cli/configs/mail?force=true", **headers)
    content, location = json.loads(response.content), response["Location"]

    assert (response.status_code, location) == (202, "/api/cli/configs/mail/deletion")
    assert (content["removed"]["tasks"]["pending"], content["removed"]["keys"]) == (3, 0)
    assert client.get("/api/cli/configs/mail").status_code == 404
    assert problem(client.post("/queue/add", {"queue": "mail", "data": {}}))["code"] == "queue_not_found"
    assert json.loads(client.get(location).content) == {
        "queue": "mail",
        "redis_queues": ["mail"],
        "tasks": dict.fromkeys(_STATES, 0) | {"pending": 3},
    }

    finish_deletions(get_broker())

    assert list_keys(redis) == []
    assert problem(client.get(location))["code"] == "queue_not_found"


def test_a_deletion_whose_maintenance_was_killed_is_continued(
    client: ApiClient, redis: redis_py.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pending_deletions, "LEASE_S", 0)
    put(get_broker(), *[f"t{n}" for n in range(BATCH_MAX_TASKS + 2)], queue="mail")
    location = client.delete("/api/cli/configs/mail?force=true", Prefer="respond-async")["Location"]
    with monkeypatch.context() as patched:
        killed_in_step_4 = Mock(side_effect=[None, None, None, KeyboardInterrupt])
        patched.setattr(pending_deletions.DeletionLease, "extend", killed_in_step_4)
        patched.setattr(pending_deletions.DeletionLease, "__exit__", lambda *_: None)
        with pytest.raises(KeyboardInterrupt):
            finish_deletions(get_broker())
    assert json.loads(client.get(location).content)["tasks"]["pending"] == 2

    finish_deletions(get_broker())

    assert list_keys(redis) == []
    assert client.get(location).status_code == 404
