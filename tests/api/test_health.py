"""The probes /livez, /readyz and /health, and their checks."""

import json
from dataclasses import replace
from typing import Any

import pytest
from django.db import OperationalError, connection
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder

from queues.models import QueueSource
from queues.operations import save_queue
from runqy.accounts.operations import create_api_key
from runqy.broker import keys
from runqy.configuration.snapshot import get_snapshot
from runqy.core.environment.connection_urls import RedisTarget
from runqy.maintenance.base import Heartbeat
from runqy.redis_connection import get_broker
from runqy.server.health import readiness
from tests.api.client import ApiClient, problem
from tests.queues.samples import spec
from tests.support import environment
from tests.support.environment import ADMIN_KEY
from tests.support.full_redis import filled_redis
from tests.support.links import wait_for_redis
from tests.support.servers import free_port
from tests.support.silent_redis import silent_redis
from tests.support.tasks import put
from tests.support.waiting import PATIENCE_S, wait_until
from vaults.operations import create_vault

pytestmark = pytest.mark.usefixtures("configuration")

ALL = [
    *("redis", "redis_eviction", "redis_append_only_file", "redis_writes", "worker_credentials", "maintenance"),
    *("database", "migrations", "configuration", "vaults", "queues"),
]


@pytest.fixture(autouse=True)
def _asks_every_time(monkeypatch: pytest.MonkeyPatch, configuration: None, settings: Any) -> None:
    monkeypatch.setattr(readiness, "MAX_AGE_S", 0.0)
    monkeypatch.setattr(readiness, "TIMEOUT_S", PATIENCE_S)  # a busy machine may take longer than is allowed
    Heartbeat().run_tick(get_broker())
    settings.RUNQY_WORKER_REDIS_TARGET = replace(settings.REDIS_TARGET, username="worker", password="secret")


def ready(path: str = "/readyz?verbose") -> tuple[int, str, dict[str, str]]:
    """Return the status, its name or the problem's code, and the checks that are not ok."""
    response = ApiClient(None).get(path)
    content = json.loads(response.content)
    assert response["Cache-Control"] == "no-store"
    assert response.has_header("Retry-After") is (response.status_code == 503)
    found = {check["check"]: check["status"] for check in content.get("checks", ()) if check["status"] != "ok"}
    name = content["status"] if response.status_code == 200 else problem(response)["code"]
    return response.status_code, name, found


def away() -> RedisTarget:
    """Return the address of a Redis that does not exist."""
    return RedisTarget(addresses=(("127.0.0.1", free_port()),))


def test_waiting_tasks_that_no_definition_names_are_a_warning() -> None:
    put(get_broker(), "a", "b", queue="foreign")

    response = json.loads(ApiClient().get("/readyz?verbose").content)

    assert ready() == (200, "degraded", {"queues": "warning"})
    (check,) = [check for check in response["checks"] if check["check"] == "queues"]
    assert check["detail"].startswith("2 tasks cannot run: no definition names their Redis queues.")


def test_a_process_is_alive_without_its_stores(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.REDIS_TARGET = away()
    with monkeypatch.context() as patched:
        patched.setattr(BaseDatabaseWrapper, "cursor", _fail)
        response = ApiClient(None).get("/livez")

    assert (response.status_code, json.loads(response.content)) == (200, {"status": "ok"})


def test_a_ready_process_reveals_no_details() -> None:
    response = ApiClient(None).get("/readyz")

    assert (response.status_code, json.loads(response.content)) == (200, {"status": "ok"})


def test_verbose_shows_details_only_with_a_key() -> None:
    put(get_broker(), "a", queue="foreign")

    shown = [json.loads(ApiClient(key).get("/readyz?verbose").content) for key in (None, "wrong", ADMIN_KEY)]

    details = [{check["detail"] for check in content["checks"] if check["check"] == "queues"} for content in shown]
    assert details[:2] == [{""}, {""}]
    assert "1 task cannot run" in details[2].pop()
    assert {content["status"] for content in shown} == {"degraded"}


def test_verbose_lists_each_check() -> None:
    response = ApiClient().get("/readyz?verbose")

    checks = json.loads(response.content)["checks"]
    assert [check["check"] for check in checks] == ALL
    assert {check["status"] for check in checks} == {"ok"}


def test_without_redis_a_process_is_not_ready(settings: Any) -> None:
    get_snapshot()
    settings.REDIS_TARGET = away()

    assert ready() == (503, "not_ready", {"redis": "failed"})


@pytest.mark.cluster
def test_a_cluster_configured_as_one_server_is_not_ready(cluster_target: RedisTarget, settings: Any) -> None:
    get_snapshot()
    settings.REDIS_TARGET = RedisTarget(addresses=cluster_target.addresses[:1])

    def detail() -> str:
        checks = json.loads(ApiClient().get("/readyz?verbose").content)["checks"]
        return str(checks[0]["detail"])

    wait_until(lambda: "redis+cluster://" in detail())
    assert ready() == (503, "not_ready", {"redis": "failed"})


def test_with_a_silent_redis_a_server_is_not_ready(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    get_snapshot()
    with silent_redis(monkeypatch, patience_s=0.2) as target:
        settings.REDIS_TARGET = target

        assert ready() == (503, "not_ready", {"redis": "failed"})


def test_a_check_that_is_not_done_in_time_is_named(redis: Any, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "TIMEOUT_S", 5.0)
    monkeypatch.setattr("runqy.redis_connection.REPLY_TIMEOUT_S", 60.0)
    ((_, port),) = settings.REDIS_TARGET.addresses
    settings.REDIS_TARGET = replace(settings.REDIS_TARGET, addresses=(("localhost", port),))  # with new connections
    redis.execute_command("CLIENT", "PAUSE", 60_000, "WRITE")
    try:
        response = ApiClient().get("/readyz?verbose")
    finally:
        redis.execute_command("CLIENT", "UNPAUSE")

    checks = {check["check"]: check for check in json.loads(response.content)["checks"]}
    assert response.status_code == 503
    assert [name for name in checks if name in ALL[:6]] == ALL[:4]
    assert (checks["redis"]["status"], checks["redis_writes"]["status"]) == ("ok", "failed")
    assert checks["redis_writes"]["detail"].startswith("Not finished within")
    assert checks["database"]["status"] == "ok"


def test_a_process_warns_while_no_maintenance_runs(redis: Any) -> None:
    assert 0 < redis.ttl(keys.MAINTENANCE) <= 60

    redis.delete(keys.MAINTENANCE)

    assert ready() == (200, "degraded", {"maintenance": "warning"})


def test_a_full_redis_is_a_warning(redis: Any) -> None:
    redis.config_set("maxmemory", "1mb")
    try:
        Heartbeat().run_tick(get_broker())
        found = ready()
    finally:
        redis.config_set("maxmemory", "0")

    assert found == (200, "degraded", {"redis_writes": "warning"})


def test_a_redis_without_room_for_new_tasks_is_a_warning(redis: Any) -> None:
    with filled_redis(redis, use=0.98):
        full = ready()
    with filled_redis(redis, use=0.95):
        has_memory = ready()

    assert full == (200, "degraded", {"redis_writes": "warning"})
    assert has_memory == (200, "ok", {})


def test_a_replica_is_not_ready(redis: Any) -> None:
    redis.execute_command("REPLICAOF", "127.0.0.1", free_port())
    try:
        found = ready()
    finally:
        redis.execute_command("REPLICAOF", "NO", "ONE")

    assert found[:2] == (503, "not_ready")


def test_an_evicting_redis_is_a_warning(redis: Any) -> None:
    redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        found = ready()
    finally:
        redis.config_set("maxmemory-policy", "noeviction")

    assert found == (200, "degraded", {"redis_eviction": "warning"})


def test_a_user_default_who_may_not_run_the_append_only_file_is_a_warning(
    redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed_in_future = (10**6,)  # the tests' Valkey needs no such permission
    redis.config_set("appendonly", "yes")
    redis.execute_command("ACL SETUSER", "default", "-geoadd")  # the tests need others
    try:
        of_valkey_9 = ready()
        monkeypatch.setattr("runqy.broker.health.LOADS_AS_SUPERUSER", fixed_in_future)
        restricted = ready()
        redis.execute_command("ACL SETUSER", "default", "+@all")
        unrestricted = ready()
    finally:
        redis.execute_command("ACL SETUSER", "default", "+@all")
        redis.config_set("appendonly", "no")

    assert restricted == (200, "degraded", {"redis_append_only_file": "warning"})
    assert of_valkey_9 == unrestricted == (200, "ok", {})


def _fail(*_: Any, **__: Any) -> None:
    raise OperationalError


def test_without_a_database_tasks_continue(monkeypatch: pytest.MonkeyPatch) -> None:
    get_snapshot()
    with monkeypatch.context() as patched:
        patched.setattr(BaseDatabaseWrapper, "cursor", _fail)
        found = ready()

    assert found == (200, "degraded", {"database": "warning"})


def test_a_database_without_its_tables_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "_is_migrated", False)
    loader, recorder = MigrationLoader(connection), MigrationRecorder(connection)
    (newest,) = loader.graph.leaf_nodes("vaults")
    recorder.record_unapplied(*newest)
    try:
        found = ready()
    finally:
        recorder.record_applied(*newest)

    assert found == (503, "not_ready", {"migrations": "failed"})


def test_a_configuration_that_redis_lost_is_a_warning(redis: Any) -> None:
    save_queue(spec=spec("simple"), source=QueueSource.API)
    get_snapshot()
    redis.flushall()
    Heartbeat().run_tick(get_broker())

    assert ready() == (200, "degraded", {"configuration": "warning"})


def test_a_missing_vault_key_is_a_warning_only_with_vaults(settings: Any) -> None:
    key, settings.RUNQY_VAULT_MASTER_KEY = settings.RUNQY_VAULT_MASTER_KEY, ""
    without_vaults = ready()
    settings.RUNQY_VAULT_MASTER_KEY = key
    create_vault(name="v")
    settings.RUNQY_VAULT_MASTER_KEY = ""

    assert without_vaults == (200, "ok", {})
    assert ready() == (200, "degraded", {"vaults": "warning"})


def test_sharing_the_servers_credentials_with_workers_is_a_warning(settings: Any) -> None:
    settings.RUNQY_WORKER_REDIS_TARGET = settings.REDIS_TARGET

    assert ready() == (200, "degraded", {"worker_credentials": "warning"})


def test_a_queue_scoped_key_whose_workers_may_share_credentials_is_a_warning(settings: Any) -> None:
    create_api_key(name="mail", role="client", queues=["mail"])
    without = ready()
    create_api_key(name="mail", role="worker", queues=["mail"])
    refused = ready()
    create_api_key(name="mail", role="worker", queues=["mail"], allow_shared_redis=True)
    shared = ready()
    settings.RUNQY_WORKER_ACL = "required"

    assert without == refused == ready() == (200, "ok", {})
    assert shared == (200, "degraded", {"key_limits": "warning"})


def test_required_users_that_the_server_may_not_create_are_a_warning(settings: Any) -> None:
    settings.RUNQY_WORKER_ACL = "required"
    before = ready()
    with environment.SERVER.client() as redis:
        redis.execute_command("ACL", "SETUSER", "server", *["on", ">secret", "~*", "&*", "+@all", "-acl"])
        settings.REDIS_TARGET = replace(settings.REDIS_TARGET, username="server", password="secret")
        wait_for_redis()
        without = ready()
        redis.acl_deluser("server")

    assert before == (200, "ok", {})
    assert without == (200, "degraded", {"worker_credentials": "warning"})


def test_frequent_requests_share_one_check(monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    monkeypatch.setattr(readiness, "MAX_AGE_S", 60.0)
    monkeypatch.setattr(readiness, "_latest", (float("-inf"), []))
    before = ready()
    settings.REDIS_TARGET = away()

    assert ready() == before == (200, "ok", {})


def test_a_draining_process_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "_is_draining", False)

    readiness.start_draining()

    assert ready() == (503, "not_ready", {"process": "failed"})
    assert ApiClient(None).get("/livez").status_code == 200
