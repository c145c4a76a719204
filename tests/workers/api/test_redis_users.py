"""The Redis user that a worker gets when it registers."""

import json
import uuid
from dataclasses import replace
from typing import Any

import pytest

from runqy.accounts.operations import create_api_key
from runqy.accounts.worker_credentials import RedisUserReconciler
from runqy.broker import keys
from runqy.broker.async_broker import AsyncBroker
from runqy.broker.keys import QueueKeys
from runqy.broker.workers import redis_users
from runqy.redis_connection import get_broker
from tests.api.client import ApiClient, problem
from tests.support.environment import SERVER
from tests.support.event_loop import run_with_broker
from tests.support.links import wait_for_redis
from tests.workers.api.redis_users import (
    ACCEPTS,
    enter,
    is_refused,
    register,
    users,
)

pytestmark = pytest.mark.usefixtures("redis_user_queues")


def test_a_worker_that_accepts_it_gets_a_user_for_its_queues_only(client: ApiClient) -> None:
    entry = register(client)

    with enter(entry) as redis:
        assert entry["username"].startswith("runqy-w-")
        assert len(entry["password"]) == 64
        assert redis.llen("asynq:{mail_high}:pending") == redis.llen("asynq:{mail_low}:pending") == 0
        assert is_refused(lambda: redis.llen("asynq:{post}:pending"))
        assert is_refused(lambda: redis.hgetall(keys.CONFIG_DOCUMENTS))


@pytest.mark.parametrize("extra", [{}, {"accepts": None}, {"accepts": []}, {"accepts": ["other"]}])
def test_other_workers_get_the_shared_credentials(client: ApiClient, settings: Any, extra: dict[str, Any]) -> None:
    shared = replace(settings.RUNQY_WORKER_REDIS_TARGET, username="", password="shared-password")
    settings.RUNQY_WORKER_REDIS_TARGET = shared

    response = client.post("/worker/register", {"queue": "mail"} | extra)

    entry = json.loads(response.content)["redis"]
    assert (entry["username"], entry["password"]) == ("", "shared-password")
    assert users() == set()


@pytest.mark.parametrize("instance", [None, "", "not-a-uuid", "550E8400*e29b-41d4-a716-446655440000", 5])
def test_an_instance_that_is_no_uuid_is_refused_by_name(client: ApiClient, instance: Any) -> None:
    body = {"queue": "mail", "accepts": ["redis_acl"], "instance_id": instance}

    response = client.post("/worker/register", body)

    assert response.status_code == 400
    assert problem(response)["errors"][0].startswith("instance_id: ")


def test_registrations_of_one_process_and_key_share_a_user(client: ApiClient) -> None:
    first, second = register(client), register(client, "post")

    assert (first["username"], first["password"]) == (second["username"], second["password"])
    with enter(first) as redis:
        assert redis.llen("asynq:{mail_high}:pending") == redis.llen("asynq:{post}:pending") == 0


def test_another_key_or_process_has_another_user(client: ApiClient) -> None:
    other_key = ApiClient(create_api_key(name="other", role="worker").plain)

    entries = [
        register(client),
        register(other_key, worker_id="w-other", instance_id=str(uuid.uuid4())),
        register(client, instance_id=str(uuid.uuid4())),
    ]

    assert len({entry["username"] for entry in entries}) == 3
    assert len({entry["password"] for entry in entries}) == 3


def test_redis_contains_no_password(client: ApiClient) -> None:
    entry = register(client)

    with SERVER.client() as redis:
        stored = redis.hgetall(keys.REDIS_USERS)
    assert list(stored) == [f"{entry['username']}/w-mail".encode()]
    assert entry["password"] not in str(stored)


def test_a_result_that_a_worker_forges_under_the_id_of_a_deleted_task_is_not_served(client: ApiClient) -> None:
    admin = ApiClient()
    task_id = json.loads(admin.post("/queue/add", {"queue": "post", "data": {}}).content)["info"]["id"]
    with SERVER.client() as redis:
        task = redis.hgetall(QueueKeys("post").task(task_id))
    assert admin.delete(f"/api/cli/queues/post/tasks/{task_id}").status_code == 200

    with enter(register(client)) as redis:
        redis.hset(QueueKeys("mail_high").task(task_id), mapping=task | {"state": "completed", "result": '"forged"'})
    response = admin.get(f"/queue/{task_id}")

    assert (response.status_code, problem(response)["code"]) == (404, "task_not_found")


def test_registering_with_a_redis_user_takes_no_query_more(client: ApiClient, django_assert_num_queries: Any) -> None:
    register(client)

    with django_assert_num_queries(1):  # for newer configuration
        register(client, "post")


def test_a_user_enters_the_database_that_workers_receive(client: ApiClient, settings: Any) -> None:
    settings.RUNQY_WORKER_REDIS_TARGET = replace(settings.REDIS_TARGET, db=3)

    entry = register(client)

    target = replace(settings.RUNQY_WORKER_REDIS_TARGET, username=entry["username"], password=entry["password"])
    run_with_broker(target, AsyncBroker.measure_clock)


def test_workers_can_register_when_redis_is_full(client: ApiClient) -> None:
    with SERVER.client() as redis:
        redis.config_set("maxmemory", 1)
        try:
            entry = register(client)
            RedisUserReconciler().run(get_broker())
        finally:
            redis.config_set("maxmemory", 0)

    with enter(entry) as redis:
        assert redis.llen("asynq:{mail_high}:pending") == 0


def test_required_refuses_workers_that_accept_no_user(client: ApiClient, settings: Any) -> None:
    settings.RUNQY_WORKER_ACL = "required"

    response = client.post("/worker/register", {"queue": "mail"})

    assert (response.status_code, problem(response)["code"]) == (403, "redis_acl_required")
    assert register(client)["username"].startswith("runqy-w-")


def test_a_key_limited_to_queues_gets_shared_credentials_only_if_it_allows_them(settings: Any) -> None:
    limited, allowed = (
        ApiClient(create_api_key(name="mail", role="worker", queues=["mail"], allow_shared_redis=allows).plain)
        for allows in (False, True)
    )

    shared = replace(settings.RUNQY_WORKER_REDIS_TARGET, password="shared-password")

    refused = limited.post("/worker/register", {"queue": "mail"})
    settings.RUNQY_WORKER_REDIS_TARGET = shared
    given = allowed.post("/worker/register", {"queue": "mail"})
    own = register(limited)["username"]
    settings.RUNQY_WORKER_ACL = "off"
    off = limited.post("/worker/register", {"queue": "mail"} | ACCEPTS)

    assert (refused.status_code, problem(refused)["code"]) == (403, "shared_redis_refused")
    assert "create one with allow_shared_redis" in problem(refused)["detail"]
    assert (given.status_code, json.loads(given.content)["redis"]["password"]) == (200, "shared-password")
    assert own.startswith("runqy-w-")
    assert (off.status_code, problem(off)["code"]) == (403, "shared_redis_refused")


@pytest.fixture
def plain_user(settings: Any) -> None:
    """Let the server enter Redis as a user that may administer no users, as a managed Redis gives it."""
    with SERVER.client() as redis:
        redis.execute_command("ACL", "SETUSER", "server", *["on", ">secret", "~*", "&*", "+@all", "-acl"])
    settings.REDIS_TARGET = replace(settings.REDIS_TARGET, username="server", password="secret")
    wait_for_redis()


@pytest.mark.usefixtures("plain_user")
def test_the_shared_credentials_are_given_where_the_server_cannot_create_users(client: ApiClient) -> None:
    entry = register(client)

    assert entry["username"] == ""
    with SERVER.client() as redis:
        assert redis.hlen(keys.REDIS_USERS) == redis.hlen(keys.INSTANCES) == 0


@pytest.mark.usefixtures("plain_user")
def test_a_limited_key_gets_no_credentials_where_the_server_cannot_create_users() -> None:
    key = create_api_key(name="mail", role="worker", queues=["mail"])

    response = ApiClient(key.plain).post("/worker/register", {"queue": "mail"} | ACCEPTS)

    assert (response.status_code, problem(response)["code"]) == (503, "redis_acl_unavailable")
    assert "allow_shared_redis" in problem(response)["detail"]


@pytest.mark.usefixtures("plain_user")
def test_required_refuses_workers_where_the_server_cannot_create_users(client: ApiClient, settings: Any) -> None:
    settings.RUNQY_WORKER_ACL = "required"

    response = client.post("/worker/register", {"queue": "mail"} | ACCEPTS)

    assert (response.status_code, problem(response)["code"]) == (503, "redis_acl_unavailable")


@pytest.mark.usefixtures("plain_user")
def test_maintenance_tries_seldom_where_the_server_cannot_create_users(
    monkeypatch: pytest.MonkeyPatch, stopped_clock: None
) -> None:
    tries, list_users = [], redis_users.list_users
    monkeypatch.setattr(redis_users, "list_users", lambda broker: tries.append(1) or list_users(broker))
    reconciler = RedisUserReconciler()

    for _ in range(3):
        reconciler.run(get_broker())

    assert len(tries) == 1


def test_off_gives_the_shared_credentials_and_ends_users_there_were(client: ApiClient, settings: Any) -> None:
    register(client)
    settings.RUNQY_WORKER_ACL = "off"

    entry = register(client)
    RedisUserReconciler().run(get_broker())

    assert entry["username"] == ""
    assert users() == set()
