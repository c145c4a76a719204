"""The Redis user that a worker gets when it registers, and how it ends."""

import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import redis as redis_py
from django.utils import timezone

from queues.models import Source
from queues.operations import save_queue
from runqy import clock
from runqy.accounts import redis_users
from runqy.accounts.operations import create_api_key, revoke_api_key
from runqy.accounts.redis_users import RedisUserReconciler, remove_users_of_keys
from runqy.broker import keys
from runqy.broker.async_broker import AsyncBroker
from runqy.broker.broker import Broker
from runqy.broker.connection import RedisTarget
from runqy.broker.redis_users import list_users
from runqy.connection import get_broker
from runqy.publication.republishing import republish_configuration
from tasks.maintenance.redis_user_keeper import RedisUserKeeper
from tests.api.client import ApiClient, problem
from tests.queues.samples import spec
from tests.support.environment import SERVER, WORKER_KEY
from tests.support.event_loop import run_with_broker
from tests.support.servers import MASTER_NAME, SentinelSet, ValkeyServer
from tests.support.waiting import wait_until

INSTANCE = str(uuid.uuid4())
ACCEPTS = {"accepts": ["redis_acl", "something-newer"], "instance_id": INSTANCE}


@pytest.fixture(autouse=True)
def _queues(configuration: None) -> Iterator[None]:
    """Define queues; delete all users at the end."""
    save_queue(spec=spec("mail", "high:10", "low:3"), source=Source.API)
    save_queue(spec=spec("post"), source=Source.API)
    yield
    with SERVER.client() as redis:
        for name in redis.acl_users():
            if name != "default":
                redis.acl_deluser(name)


@pytest.fixture
def client() -> ApiClient:
    """Return a client with the worker's key."""
    return ApiClient(WORKER_KEY)


def register(client: ApiClient, queue: str = "mail", **changes: Any) -> dict[str, Any]:
    """Register a worker and return how it enters Redis."""
    body = {"queue": queue, "worker_id": f"w-{queue}"} | ACCEPTS | changes
    answer = client.post("/worker/register", body)
    assert answer.status_code == 200, answer.content
    found: dict[str, Any] = json.loads(answer.content)["redis"]
    return found


def enter(entry: dict[str, Any], port: int = 0) -> redis_py.Redis:
    """Return a client that enters Redis as a worker was told."""
    return redis_py.Redis(port=port or SERVER.port, username=entry["username"], password=entry["password"])


def users(broker: Broker | None = None) -> set[str]:
    """Return the names of workers' users that are on any server."""
    return {name for names in list_users(broker or get_broker()).values() for name in names}


def is_refused(act: Callable[[], object]) -> bool:
    """Return whether Redis does not let a user do something, or does not let it in."""
    try:
        act()
    except (redis_py.exceptions.NoPermissionError, redis_py.AuthenticationError):
        return True
    return False


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

    answer = client.post("/worker/register", {"queue": "mail"} | extra)

    entry = json.loads(answer.content)["redis"]
    assert (entry["username"], entry["password"]) == ("", "shared-password")
    assert users() == set()


@pytest.mark.parametrize("instance", [None, "", "not-a-uuid", "550E8400*e29b-41d4-a716-446655440000", 5])
def test_an_instance_that_is_no_uuid_is_refused_by_name(client: ApiClient, instance: Any) -> None:
    body = {"queue": "mail", "accepts": ["redis_acl"], "instance_id": instance}

    answer = client.post("/worker/register", body)

    assert answer.status_code == 400
    assert problem(answer)["errors"][0].startswith("instance_id: ")


def test_registrations_of_one_process_and_key_share_a_user(client: ApiClient) -> None:
    first, second = register(client), register(client, "post")

    assert (first["username"], first["password"]) == (second["username"], second["password"])
    with enter(first) as redis:
        assert redis.llen("asynq:{mail_high}:pending") == redis.llen("asynq:{post}:pending") == 0


def test_another_key_or_process_has_another_user(client: ApiClient) -> None:
    other_key = ApiClient(create_api_key(name="other", role="worker").plain)

    entries = [
        register(client),
        register(other_key, worker_id="w-other"),
        register(client, instance_id=str(uuid.uuid4())),
    ]

    assert len({entry["username"] for entry in entries}) == 3
    assert len({entry["password"] for entry in entries}) == 3


def test_no_password_stands_in_redis(client: ApiClient) -> None:
    entry = register(client)

    with SERVER.client() as redis:
        stored = redis.hgetall(keys.REDIS_USERS)
    assert list(stored) == [f"{entry['username']}/w-mail".encode()]
    assert entry["password"] not in str(stored)


def test_registering_for_a_user_asks_no_database(client: ApiClient, django_assert_num_queries: Any) -> None:
    register(client)

    with django_assert_num_queries(0):
        register(client, "post")


def test_a_user_enters_the_database_that_workers_are_told(client: ApiClient, settings: Any) -> None:
    settings.RUNQY_WORKER_REDIS_TARGET = replace(settings.REDIS_TARGET, db=3)

    entry = register(client)

    target = replace(settings.RUNQY_WORKER_REDIS_TARGET, username=entry["username"], password=entry["password"])
    run_with_broker(target, AsyncBroker.measure_clock)


def test_a_full_redis_keeps_no_worker_away(client: ApiClient) -> None:
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

    answer = client.post("/worker/register", {"queue": "mail"})

    assert (answer.status_code, problem(answer)["code"]) == (403, "redis_acl_required")
    assert register(client)["username"].startswith("runqy-w-")


@pytest.fixture
def plain_user(settings: Any) -> None:
    """Let the server enter Redis as a user that may administer no users, as a managed Redis gives it."""
    with SERVER.client() as redis:
        redis.execute_command("ACL", "SETUSER", "server", *["on", ">secret", "~*", "&*", "+@all", "-acl"])
    settings.REDIS_TARGET = replace(settings.REDIS_TARGET, username="server", password="secret")


@pytest.mark.usefixtures("plain_user")
def test_where_the_server_may_create_no_users_the_shared_credentials_are_given(client: ApiClient) -> None:
    entry = register(client)

    assert entry["username"] == ""
    with SERVER.client() as redis:
        assert redis.hlen(keys.REDIS_USERS) == 0


@pytest.mark.usefixtures("plain_user")
def test_where_the_server_may_create_no_users_required_registers_nobody(client: ApiClient, settings: Any) -> None:
    settings.RUNQY_WORKER_ACL = "required"

    answer = client.post("/worker/register", {"queue": "mail"} | ACCEPTS)

    assert (answer.status_code, problem(answer)["code"]) == (503, "redis_acl_unavailable")


@pytest.mark.usefixtures("plain_user")
def test_where_the_server_may_create_no_users_maintenance_leaves_it_alone() -> None:
    RedisUserReconciler().run(get_broker())


def test_off_gives_the_shared_credentials_and_ends_users_there_were(client: ApiClient, settings: Any) -> None:
    register(client)
    settings.RUNQY_WORKER_ACL = "off"

    entry = register(client)
    RedisUserReconciler().run(get_broker())

    assert entry["username"] == ""
    assert users() == set()


def test_a_revoked_key_takes_its_users_and_their_connections_with_it() -> None:
    created, other = create_api_key(name="gpu", role="worker"), create_api_key(name="cpu", role="worker")
    entry, kept = register(ApiClient(created.plain)), register(ApiClient(other.plain), worker_id="w-2")
    listener = enter(entry).pubsub()
    listener.subscribe(keys.CANCEL_CHANNEL)
    assert listener.get_message(timeout=1) is not None

    answer = ApiClient().delete(f"/api/keys/{created.row.pk}")

    assert answer.status_code == 200
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


def test_a_record_of_another_type_neither_keeps_a_user_nor_hinders_the_others(
    client: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    created = create_api_key(name="gpu", role="worker", expires_at=timezone.now() + timedelta(hours=1))
    entry = register(ApiClient(created.plain))
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


def test_a_worker_that_deregistered_loses_what_it_had_and_the_others_of_its_process_nothing(client: ApiClient) -> None:
    entry = register(client)
    register(client, "post")
    beat_for("w-post")
    reconciler = RedisUserReconciler()
    reconciler.run(get_broker())
    with SERVER.client() as redis:
        redis.set(keys.worker_record("w-mail"), get_broker().now_s() + 1)

    RedisUserReconciler().run(get_broker())

    with enter(entry) as redis:
        assert redis.llen("asynq:{post}:pending") == 0
        assert is_refused(lambda: redis.llen("asynq:{mail_high}:pending"))


def test_a_worker_that_registers_again_after_it_deregistered_keeps_its_user(client: ApiClient) -> None:
    with SERVER.client() as redis:
        redis.set(keys.worker_record("w-mail"), get_broker().now_s() - 1)
    register(client)

    RedisUserReconciler().run(get_broker())

    assert users()


def test_a_silent_worker_loses_its_user_after_a_while(client: ApiClient, monkeypatch: pytest.MonkeyPatch) -> None:
    register(client)
    register(client, "post", instance_id=str(uuid.uuid4()))
    beat_for("w-post")
    reconciler = RedisUserReconciler()
    reconciler.run(get_broker())
    now_s = clock.monotonic_s()
    monkeypatch.setattr(clock, "monotonic_s", lambda: now_s + redis_users.SILENT_S - 1)
    reconciler.run(get_broker())
    assert len(users()) == 2

    monkeypatch.setattr(clock, "monotonic_s", lambda: now_s + redis_users.SILENT_S + redis_users.READ_EVERY_S)
    reconciler.run(get_broker())

    assert len(users()) == 1


def test_users_that_nothing_signed_stands_for_are_deleted(client: ApiClient) -> None:
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
    monkeypatch.setattr(clock, "monotonic_s", lambda: now_s + redis_users.READ_EVERY_S)
    reconciler.run(get_broker())

    with enter(entry) as redis:
        assert redis.llen("asynq:{mail_low}:pending") == 0
        assert is_refused(lambda: redis.llen("asynq:{mail_high}:pending"))


def test_a_sub_queue_that_is_gone_is_out_of_reach_though_its_worker_does_not_register_again(client: ApiClient) -> None:
    entry = register(client)
    keeper = RedisUserKeeper()
    keeper.run_tick(get_broker())
    worker = enter(entry)
    assert worker.llen("asynq:{mail_low}:pending") == 0

    save_queue(spec=spec("mail", "high:10"), source=Source.API)
    save_queue(spec=spec("mail_low"), source=Source.API)
    keeper.run_tick(get_broker())

    assert is_refused(lambda: worker.llen("asynq:{mail_low}:pending"))
    assert worker.llen("asynq:{mail_high}:pending") == 0
    worker.close()


def test_maintenance_takes_nothing_from_a_registration_that_comes_while_it_works(
    client: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    reconciler = RedisUserReconciler()
    reconciler.run(get_broker())
    entry = register(client)
    set_users = redis_users.acl.set_users

    def set_late(*args: Any, **options: Any) -> None:
        register(client, "post")
        set_users(*args, **options)

    monkeypatch.setattr(redis_users.acl, "set_users", set_late)
    reconciler.run(get_broker())

    with enter(entry) as redis:
        assert redis.llen("asynq:{mail_high}:pending") == redis.llen("asynq:{post}:pending") == 0


@pytest.fixture
def own_valkey(settings: Any) -> Iterator[ValkeyServer]:
    """Return a Redis that the test may end, to which the configuration is published."""
    server = ValkeyServer("--appendonly", "yes", "--appendfsync", "always").start()
    settings.REDIS_TARGET = RedisTarget(addresses=(("127.0.0.1", server.port),))
    settings.RUNQY_WORKER_REDIS_TARGET = settings.REDIS_TARGET
    republish_configuration()
    yield server
    server.stop()


def test_users_are_there_again_after_redis_was_restarted(client: ApiClient, own_valkey: ValkeyServer) -> None:
    entry = register(client)
    register(client, "post")
    reconciler = RedisUserReconciler()
    reconciler.run(get_broker())

    own_valkey.kill()
    own_valkey.start()
    with enter(entry, own_valkey.port) as redis:
        assert is_refused(redis.ping)
    reconciler.run(get_broker())

    with enter(entry, own_valkey.port) as redis:
        assert redis.llen("asynq:{mail_high}:pending") == redis.llen("asynq:{post}:pending") == 0


def test_users_are_on_every_node_of_a_cluster_and_again_on_one_that_lost_them(
    client: ApiClient, settings: Any, cluster_broker: Broker, cluster_target: RedisTarget
) -> None:
    settings.REDIS_TARGET = settings.RUNQY_WORKER_REDIS_TARGET = cluster_target
    republish_configuration()
    created = create_api_key(name="gpu", role="worker")
    entry = register(ApiClient(created.plain))
    reconciler = RedisUserReconciler()
    reconciler.run(get_broker())
    assert list(list_users(cluster_broker).values()) == [{entry["username"]}] * 3

    with redis_py.Redis(port=cluster_target.addresses[1][1]) as node:
        node.acl_deluser(entry["username"])
    reconciler.run(get_broker())
    assert list(list_users(cluster_broker).values()) == [{entry["username"]}] * 3
    revoke_api_key(key_id=created.row.pk)

    assert users(cluster_broker) == set()


def test_users_are_on_the_new_master_after_a_failover(
    client: ApiClient, settings: Any, sentinel_set: SentinelSet
) -> None:
    addresses = (("127.0.0.1", sentinel_set.sentinel.port),)
    settings.REDIS_TARGET = RedisTarget(mode="sentinel", addresses=addresses, master_name=MASTER_NAME)
    settings.RUNQY_WORKER_REDIS_TARGET = settings.REDIS_TARGET
    republish_configuration()
    entry = register(client)
    reconciler = RedisUserReconciler()
    reconciler.run(get_broker())
    with sentinel_set.master.client() as master:
        assert master.wait(1, 10_000) == 1

    sentinel_set.master.kill()

    def is_back() -> bool:
        try:
            reconciler.run(get_broker())
        except Exception:  # noqa: BLE001 (Redis is away for a moment)
            return False
        with enter(entry, sentinel_set.replica.port) as redis:
            return not is_refused(redis.ping)

    wait_until(is_back, timeout_s=30)
    target = replace(settings.REDIS_TARGET, username=entry["username"], password=entry["password"])
    run_with_broker(target, AsyncBroker.measure_clock)  # a worker finds it by Sentinel


def test_removing_users_while_redis_is_away_is_no_error(settings: Any) -> None:
    settings.REDIS_TARGET = RedisTarget(addresses=(("127.0.0.1", 1),))

    remove_users_of_keys(["1"])
