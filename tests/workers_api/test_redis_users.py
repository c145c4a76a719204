"""The Redis user that a worker gets when it registers, and how it ends."""

import json
import uuid
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import redis as redis_py
from django.utils import timezone

from queues.models import QueueSource
from queues.operations import save_queue
from runqy import clock
from runqy.accounts import worker_credentials
from runqy.accounts.operations import create_api_key, revoke_api_key
from runqy.accounts.worker_credentials import RedisUserReconciler, remove_users_of_keys
from runqy.broker import keys
from runqy.broker.async_broker import AsyncBroker
from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.workers import redis_users
from runqy.broker.workers.heartbeats import deregister
from runqy.broker.workers.records import WorkerRecord
from runqy.redis_connection import get_broker
from tests.api.client import ApiClient, problem
from tests.queues.samples import spec
from tests.support.environment import SERVER
from tests.support.event_loop import run_with_broker
from tests.support.waiting import wait_until
from tests.workers_api.redis_users import (
    ACCEPTS,
    INSTANCE,
    OTHER_INSTANCE,
    enter,
    is_refused,
    register,
    users,
)
from workers.duties import RedisUserReconciliation

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


def test_a_revoked_key_takes_its_users_and_their_connections_with_it() -> None:
    created, other = create_api_key(name="gpu", role="worker"), create_api_key(name="cpu", role="worker")
    entry, kept = (
        register(ApiClient(created.plain)),
        register(ApiClient(other.plain), worker_id="w-2", instance_id=OTHER_INSTANCE),
    )
    listener = enter(entry).pubsub()
    listener.subscribe(keys.CANCEL_CHANNEL)
    assert listener.get_message(timeout=60) is not None

    response = ApiClient().delete(f"/api/keys/{created.row.pk}")

    assert response.status_code == 200
    assert users() == {kept["username"]}
    assert listener.connection is not None
    with pytest.raises((redis_py.ConnectionError, redis_py.AuthenticationError)):
        wait_until(lambda: listener.get_message(timeout=0.1))
    listener.close()


def test_maintenance_ends_users_of_a_key_that_was_revoked_while_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    created = create_api_key(name="gpu", role="worker")
    register(ApiClient(created.plain))
    reconciler = RedisUserReconciler()
    reconciler.run(get_broker())
    monkeypatch.setattr("runqy.accounts.operations.remove_users_of_keys", lambda _: None)
    revoke_api_key(key_id=created.row.pk)
    assert users()

    reconciler.run(get_broker())

    assert users() == set()


def test_users_of_a_new_key_that_this_process_has_not_seen_yet_stay() -> None:
    reconciler = RedisUserReconciler()
    reconciler.run(get_broker())
    created = create_api_key(name="gpu", role="worker")
    register(ApiClient(created.plain))

    reconciler.run(get_broker())

    assert users()


def test_users_of_an_expired_key_end(monkeypatch: pytest.MonkeyPatch) -> None:
    created = create_api_key(name="gpu", role="worker", expires_at=timezone.now() + timedelta(hours=1))
    register(ApiClient(created.plain))
    reconciler, broker = RedisUserReconciler(), get_broker()
    reconciler.run(broker)
    assert users()

    now_s = broker.now_s()
    monkeypatch.setattr(broker, "now_s", lambda: now_s + 3601)
    reconciler.run(broker)

    assert users() == set()


def test_a_record_of_the_wrong_type_does_not_keep_a_user_or_affect_others(
    client: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    created = create_api_key(name="gpu", role="worker", expires_at=timezone.now() + timedelta(hours=1))
    entry = register(ApiClient(created.plain), instance_id=str(uuid.uuid4()))
    kept = register(client, "post")
    beat_for("w-post")
    with enter(entry) as redis:
        redis.rpush(keys.worker_record("w-mail"), "no string")
    reconciler, broker = RedisUserReconciler(), get_broker()
    reconciler.run(broker)

    now_s = broker.now_s()
    monkeypatch.setattr(broker, "now_s", lambda: now_s + 3601)
    reconciler.run(broker)

    assert users() == {kept["username"]}


def test_users_of_a_key_of_the_environment_end_when_it_changes(client: ApiClient, settings: Any) -> None:
    register(client)
    reconciler = RedisUserReconciler()
    reconciler.run(get_broker())
    assert users()

    settings.RUNQY_WORKER_API_KEY = "another-key"
    reconciler.run(get_broker())

    assert users() == set()


def beat_for(worker_id: str) -> None:
    """Let a worker have reported."""
    with SERVER.client() as redis:
        redis.set(keys.worker_record(worker_id), '{"worker_id":"…"}')


def test_a_deregistered_worker_loses_its_rights_and_others_of_its_process_keep_theirs(client: ApiClient) -> None:
    entry = register(client)
    register(client, "post")
    beat_for("w-post")
    reconciler = RedisUserReconciler()
    reconciler.run(get_broker())
    with SERVER.client() as redis:
        redis.set(keys.worker_record("w-mail"), f"{get_broker().now_s() + 1}.000000")

    RedisUserReconciler().run(get_broker())

    with enter(entry) as redis:
        assert redis.llen("asynq:{post}:pending") == 0
        assert is_refused(lambda: redis.llen("asynq:{mail_high}:pending"))


def test_a_worker_that_registers_again_after_it_deregistered_keeps_its_user(client: ApiClient) -> None:
    with SERVER.client() as redis:
        redis.set(keys.worker_record("w-mail"), f"{get_broker().now_s() - 1}.000000")
    register(client)

    RedisUserReconciler().run(get_broker())

    assert users()


def test_a_worker_that_registers_again_in_the_second_in_which_it_deregistered_keeps_its_user(
    client: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = get_broker()
    second_ns = broker.now_ns() // 10**9 * 10**9
    monkeypatch.setattr(Broker, "now_ns", lambda _: second_ns + 2_000_000)
    monkeypatch.setattr(Broker, "now_s", lambda _: second_ns // 10**9)
    record = WorkerRecord(
        worker_id="w-mail", host="h", pid=1, server_id="s", queue="mail", redis_queues={}, started_at_s=1
    )
    broker.run(deregister(record, now_ns=second_ns + 1_000_000))
    register(client)

    RedisUserReconciler().run(broker)

    assert users()


def test_an_instance_belongs_to_the_key_that_registered_it_until_its_workers_are_gone(client: ApiClient) -> None:
    created = create_api_key(name="first", role="worker")
    first, body = ApiClient(created.plain), {"queue": "mail", "worker_id": "w-other"} | ACCEPTS
    register(first)
    register(first, "post")
    taken = client.post("/worker/register", body)

    revoke_api_key(key_id=created.row.pk)
    RedisUserReconciler().run(get_broker())

    assert (taken.status_code, problem(taken)["code"]) == (409, "worker_id_taken")
    assert INSTANCE in problem(taken)["detail"]
    assert client.post("/worker/register", body).status_code == 200
    with SERVER.client() as redis:
        assert list(redis.hkeys(keys.INSTANCES)) == [INSTANCE.encode()]


def test_removing_the_users_of_a_key_reads_no_others(client: ApiClient) -> None:
    created = create_api_key(name="mail", role="worker")
    for key in range(30):
        register(client, worker_id=f"w-{key}", instance_id=str(uuid.uuid4()))
    register(ApiClient(created.plain))
    with SERVER.client() as redis:
        assert redis.hlen(keys.REDIS_USERS) == 31
        before = redis.info("stats")["total_net_output_bytes"]

        remove_users_of_keys([str(created.row.pk)])

        sent = redis.info("stats")["total_net_output_bytes"] - before
        assert redis.hlen(keys.REDIS_USERS) == 30
        assert sent < len(b"".join(redis.hvals(keys.REDIS_USERS))) / 2


def test_a_silent_worker_loses_its_user_after_a_while(client: ApiClient, monkeypatch: pytest.MonkeyPatch) -> None:
    register(client)
    register(client, "post", instance_id=str(uuid.uuid4()))
    beat_for("w-post")
    reconciler, now_s = RedisUserReconciler(), clock.monotonic_s()
    monkeypatch.setattr(clock, "monotonic_s", lambda: now_s)
    reconciler.run(get_broker())
    monkeypatch.setattr(clock, "monotonic_s", lambda: now_s + worker_credentials.SILENT_S - 1)
    reconciler.run(get_broker())
    assert len(users()) == 2

    monkeypatch.setattr(
        clock, "monotonic_s", lambda: now_s + worker_credentials.SILENT_S + worker_credentials.READ_EVERY_S
    )
    reconciler.run(get_broker())

    assert len(users()) == 1


def test_users_without_a_signed_registration_are_deleted(client: ApiClient) -> None:
    register(client)
    with SERVER.client() as redis:
        (field, content), *_ = redis.hgetall(keys.REDIS_USERS).items()
        redis.execute_command("ACL", "SETUSER", "runqy-w-forged", "on", "nopass", "~*", "+@all")
        redis.hset(keys.REDIS_USERS, "runqy-w-forged/w", content)
        redis.hset(keys.REDIS_USERS, field, content.replace(b"mail_high", b"post_high"))

    RedisUserReconciler().run(get_broker())

    assert users() == set()
    with SERVER.client() as redis:
        assert redis.hlen(keys.REDIS_USERS) == 0


def test_a_queue_that_lost_a_sub_queue_is_out_of_reach_after_the_next_registration(
    client: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = register(client)
    reconciler = RedisUserReconciler()
    reconciler.run(get_broker())
    register(client, "mail_low", worker_id="w-mail")

    now_s = clock.monotonic_s()
    monkeypatch.setattr(clock, "monotonic_s", lambda: now_s + worker_credentials.READ_EVERY_S)
    reconciler.run(get_broker())

    with enter(entry) as redis:
        assert redis.llen("asynq:{mail_low}:pending") == 0
        assert is_refused(lambda: redis.llen("asynq:{mail_high}:pending"))


@pytest.mark.parametrize("is_seen_before", [True, False])
def test_a_sub_queue_that_is_gone_is_out_of_reach_though_its_worker_does_not_register_again(
    client: ApiClient, is_seen_before: bool
) -> None:
    reconciliation = RedisUserReconciliation()
    reconciliation.run_tick(get_broker())
    entry = register(client)
    if is_seen_before:
        reconciliation.run_tick(get_broker())
    worker = enter(entry)
    assert worker.llen("asynq:{mail_low}:pending") == 0

    save_queue(spec=spec("mail", "high:10"), source=QueueSource.API)
    save_queue(spec=spec("mail_low"), source=QueueSource.API)
    reconciliation.run_tick(get_broker())

    assert is_refused(lambda: worker.llen("asynq:{mail_low}:pending"))
    assert worker.llen("asynq:{mail_high}:pending") == 0
    worker.close()


def test_maintenance_takes_nothing_from_a_registration_that_comes_while_it_works(
    client: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    reconciler = RedisUserReconciler()
    reconciler.run(get_broker())
    entry = register(client)
    set_users = worker_credentials.acl.set_users

    def set_late(*args: Any, **options: Any) -> None:
        register(client, "post")
        set_users(*args, **options)

    monkeypatch.setattr(worker_credentials.acl, "set_users", set_late)
    reconciler.run(get_broker())

    with enter(entry) as redis:
        assert redis.llen("asynq:{mail_high}:pending") == redis.llen("asynq:{post}:pending") == 0
