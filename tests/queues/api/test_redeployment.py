"""Redeployment: permissions, audit and the notification of workers."""

import json
from dataclasses import replace
from typing import Any

import pytest
import redis as redis_py
from django.db import OperationalError

from queues.models import QueueSource
from queues.operations import delete_definition, save_queue
from queues.queries import get_fresh_catalog, get_published_releases
from queues.releases import redeploy_queue
from runqy.accounts.operations import create_api_key
from runqy.audit.models import AuditRecord
from runqy.broker import keys
from runqy.broker.broker import Broker
from runqy.broker.workers.heartbeats import write_heartbeat
from runqy.broker.workers.records import WorkerRecord
from runqy.configuration.models import Revision, StoredDocument
from runqy.configuration.operations import configuration_change
from runqy.configuration.publishing import compare_configuration
from runqy.core.api_keys import Role
from tests.api.client import ApiClient, problem
from tests.configuration.support import away
from tests.queues.samples import spec
from workers.operations import register_worker

RECORD = WorkerRecord(
    worker_id="w-1",
    host="h",
    pid=1,
    server_id="s1",
    queue="inference",
    redis_queues={"inference_high": 10, "inference_low": 3},
    started_at_s=1,
)


@pytest.fixture
def client(stopped_clock: None, configuration: None, single_broker: Broker) -> ApiClient:
    """Return an administrator's client, with one queue of two sub-queues and another one."""
    save_queue(spec=spec("inference", "high:10", "low:3"), source=QueueSource.API)
    save_queue(spec=spec("mail"), source=QueueSource.API)
    return ApiClient()


def revision(redis: redis_py.Redis, queue: str) -> bytes | None:
    """Return the revision that workers of a queue compare."""
    return redis.hget(keys.QUEUE_REVISIONS, queue)


def test_a_request_without_redis_is_stored_and_not_published(client: ApiClient, settings: Any) -> None:
    settings.REDIS_TARGET = away()

    response = client.post("/api/cli/queues/inference/redeploy")

    found = json.loads(response.content)
    assert (response.status_code, found["workers"], found["published"]) == (200, None, False)
    assert StoredDocument.objects.filter(kind="releases", name="inference").exists()


@pytest.mark.parametrize("name", ["inference", "inference_high", "inference.low"])
def test_only_workers_of_the_whole_queue_are_notified(
    client: ApiClient, single_broker: Broker, redis: redis_py.Redis, name: str
) -> None:
    others = [
        replace(RECORD, worker_id="w-2", server_id="s2", queue="mail", redis_queues={"mail": 1}),
        replace(RECORD, worker_id="go:1", server_id="s3", is_foreign=True),
    ]
    for record in (RECORD, *others):
        single_broker.run(write_heartbeat(record, now_ns=single_broker.now_ns()))
    before = {queue: revision(redis, queue) for queue in ("inference", "mail")}

    response = client.post(f"/api/cli/queues/{name}/redeploy")

    assert response.status_code == 200
    found = json.loads(response.content)
    assert (found["message"], found["queue"], found["workers"]) == ("redeployment requested", "inference", ["w-1"])
    assert (found["published"], found["release"]) == (True, 1)
    assert int(revision(redis, "inference") or 0) > int(before["inference"] or 0)
    assert revision(redis, "mail") == before["mail"]


def test_a_registration_contains_the_latest_redeployment(client: ApiClient, redis: redis_py.Redis) -> None:
    first = register_worker(queue="inference", follows_releases=True)
    client.post("/api/cli/queues/inference/redeploy")
    second = register_worker(queue="inference_low", follows_releases=True)
    client.post("/api/cli/queues/inference/redeploy")
    third = register_worker(queue="inference", follows_releases=True)

    assert [each.release and each.release.number for each in (first, second, third)] == [None, 1, 2]
    assert register_worker(queue="inference").release is None  # Go's workers follow the branch
    assert third.revision == (revision(redis, "inference") or b"").decode()
    assert third.queue == first.queue


def test_a_change_of_the_queue_requests_no_redeployment(client: ApiClient) -> None:
    redeploy_queue(name="inference")
    before = register_worker(queue="inference", follows_releases=True)

    save_queue(spec=spec("inference", "high:9", "low:3"), source=QueueSource.API)

    after = register_worker(queue="inference", follows_releases=True)
    assert (after.release, after.revision != before.revision) == (before.release, True)


def test_redis_and_the_database_agree_on_redeployments(client: ApiClient, redis: redis_py.Redis) -> None:
    redeploy_queue(name="inference")

    assert compare_configuration().is_agreed
    assert get_fresh_catalog(0).queue_revision("inference") == (revision(redis, "inference") or b"").decode()


def test_a_recreated_queue_has_no_redeployment_of_the_old_one(client: ApiClient) -> None:
    redeploy_queue(name="mail")
    with configuration_change() as change:
        delete_definition(change, "mail")

    save_queue(spec=spec("mail"), source=QueueSource.API)

    get_fresh_catalog(0)
    assert get_published_releases("mail").of_worker("w-1") is None


def test_the_actor_of_a_redeployment_is_recorded(client: ApiClient) -> None:
    client.post("/api/cli/queues/inference.high/redeploy")

    row = AuditRecord.objects.get(action="queue.redeployed")
    assert (row.object_kind, row.object_name) == ("queue", "inference")
    assert row.actor_name == "admin key of the environment"


def test_an_unknown_queue_is_not_found(client: ApiClient) -> None:
    response = client.post("/api/cli/queues/nowhere/redeploy")

    assert (response.status_code, problem(response)["code"]) == (404, "queue_not_found")


def test_a_key_for_other_queues_finds_nothing(client: ApiClient) -> None:
    limited = ApiClient(create_api_key(name="k", role=Role.ADMIN, queues=["mail"]).plain)

    assert limited.post("/api/cli/queues/inference/redeploy").status_code == 404
    assert limited.post("/api/cli/queues/mail/redeploy").status_code == 200


def test_without_the_database_a_redeployment_is_refused(
    client: ApiClient, redis: redis_py.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = revision(redis, "mail")

    def fail(*_: object, **__: object) -> None:
        raise OperationalError("down")

    monkeypatch.setattr(Revision.objects, "select_for_update", fail)
    response = client.post("/api/cli/queues/mail/redeploy")

    assert (response.status_code, problem(response)["code"]) == (503, "database_unavailable")
    assert response["Retry-After"]
    assert revision(redis, "mail") == before
