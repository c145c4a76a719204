"""When the Redis users of workers end, and what they may no longer reach."""

import uuid
from collections.abc import Coroutine
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
from runqy.broker.broker import Broker
from runqy.broker.workers.heartbeats import deregister
from runqy.broker.workers.records import WorkerRecord
from runqy.redis_connection import get_broker
from tests.api.client import ApiClient, problem
from tests.queues.samples import spec
from tests.support.environment import SERVER
from tests.support.waiting import wait_until
from tests.workers.api.redis_users import (
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
        redis.zadd(keys.WORKER_RECORDS, {worker_id: get_broker().now_s() + 7200})


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

    def set_late(*args: Any, **options: Any) -> Coroutine[Any, Any, None]:
        register(client, "post")
        return set_users(*args, **options)

    monkeypatch.setattr(worker_credentials.acl, "set_users", set_late)
    reconciler.run(get_broker())

    with enter(entry) as redis:
        assert redis.llen("asynq:{mail_high}:pending") == redis.llen("asynq:{post}:pending") == 0
