"""Whether a process lives, whether it is ready, and what it says about why not."""

import json
from dataclasses import replace
from typing import Any

import pytest
from django.db import OperationalError, connection
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder

from queues.models import Source
from queues.operations import save_queue
from runqy import readiness
from runqy.broker import keys
from runqy.broker.connection import RedisTarget
from runqy.connection import get_broker
from runqy.publication.snapshot import get_snapshot
from tasks.maintenance.heartbeat import Heartbeat
from tests.api.client import ApiClient, problem
from tests.queues.samples import spec
from tests.support import environment
from tests.support.servers import free_port
from tests.support.silent_redis import silent_redis
from vaults.operations import create_vault

pytestmark = pytest.mark.usefixtures("configuration")

ALL = [
    *("redis", "redis_eviction", "redis_writes", "worker_credentials", "maintenance"),
    *("database", "migrations", "configuration", "vaults"),
]


@pytest.fixture(autouse=True)
def _asks_every_time(monkeypatch: pytest.MonkeyPatch, configuration: None, settings: Any) -> None:
    monkeypatch.setattr(readiness, "MAX_AGE_S", 0.0)
    Heartbeat().run_tick(get_broker())
    settings.RUNQY_WORKER_REDIS_TARGET = replace(settings.REDIS_TARGET, username="worker", password="secret")


def ready(path: str = "/readyz?verbose") -> tuple[int, str, dict[str, str]]:
    """Return the status, its name or the problem's code, and of the checks what is not ok."""
    answer = ApiClient(None).get(path)
    content = json.loads(answer.content)
    assert answer["Cache-Control"] == "no-store"
    assert answer.has_header("Retry-After") is (answer.status_code == 503)
    found = {check["check"]: check["status"] for check in content.get("checks", ()) if check["status"] != "ok"}
    name = content["status"] if answer.status_code == 200 else problem(answer)["code"]
    return answer.status_code, name, found


def away() -> RedisTarget:
    """Return a Redis that is none."""
    return RedisTarget(addresses=(("127.0.0.1", free_port()),))


def test_a_process_lives_whatever_is_away(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.REDIS_TARGET = away()
    with monkeypatch.context() as patched:
        patched.setattr(BaseDatabaseWrapper, "cursor", _fail)
        answer = ApiClient(None).get("/livez")

    assert (answer.status_code, json.loads(answer.content)) == (200, {"status": "ok"})


def test_a_process_that_has_all_is_ready_and_says_no_more_than_that() -> None:
    answer = ApiClient(None).get("/readyz")

    assert (answer.status_code, json.loads(answer.content)) == (200, {"status": "ok"})


def test_each_check_is_told_to_whoever_wants_to_know() -> None:
    answer = ApiClient(None).get("/readyz?verbose")

    checks = json.loads(answer.content)["checks"]
    assert [check["check"] for check in checks] == ALL
    assert {check["status"] for check in checks} == {"ok"}


def test_without_redis_a_process_is_not_ready(settings: Any) -> None:
    get_snapshot()
    settings.REDIS_TARGET = away()

    assert ready() == (503, "not_ready", {"redis": "failed"})


@pytest.mark.cluster
def test_a_cluster_that_is_taken_for_one_server_is_not_ready(cluster_target: RedisTarget, settings: Any) -> None:
    get_snapshot()
    settings.REDIS_TARGET = RedisTarget(addresses=cluster_target.addresses[:1])

    answer = ApiClient(None).get("/readyz?verbose")

    assert ready() == (503, "not_ready", {"redis": "failed"})
    assert "redis+cluster://" in json.loads(answer.content)["checks"][0]["detail"]


def test_a_silent_redis_is_asked_once(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    get_snapshot()
    with silent_redis(monkeypatch, patience_s=0.2) as redis:
        settings.REDIS_TARGET = redis.target
        get_broker()
        redis.count_calls()

        found = ready()

        assert redis.count_calls() == 1
    assert found == (503, "not_ready", {"redis": "failed"})


def test_a_process_warns_while_no_maintenance_runs(redis: Any) -> None:
    assert 0 < redis.ttl(keys.MAINTENANCE) <= 60

    redis.delete(keys.MAINTENANCE)

    assert ready() == (200, "degraded", {"maintenance": "warning"})


def test_a_full_redis_is_a_warning_since_all_but_enqueueing_goes_on(redis: Any) -> None:
    redis.config_set("maxmemory", "1mb")
    try:
        Heartbeat().run_tick(get_broker())
        found = ready()
    finally:
        redis.config_set("maxmemory", "0")

    assert found == (200, "degraded", {"redis_writes": "warning"})


def test_a_redis_that_is_a_replica_takes_no_writes(redis: Any) -> None:
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


def _fail(*_: Any, **__: Any) -> None:
    raise OperationalError


def test_without_a_database_tasks_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
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
    save_queue(spec=spec("simple"), source=Source.API)
    get_snapshot()
    redis.flushall()
    Heartbeat().run_tick(get_broker())

    assert ready() == (200, "degraded", {"configuration": "warning"})


def test_vaults_need_their_key_only_where_there_are_some(settings: Any) -> None:
    key, settings.RUNQY_VAULT_MASTER_KEY = settings.RUNQY_VAULT_MASTER_KEY, ""
    without_vaults = ready()
    settings.RUNQY_VAULT_MASTER_KEY = key
    create_vault(name="v")
    settings.RUNQY_VAULT_MASTER_KEY = ""

    assert without_vaults == (200, "ok", {})
    assert ready() == (200, "degraded", {"vaults": "warning"})


def test_workers_that_get_the_servers_own_credentials_are_a_warning(settings: Any) -> None:
    settings.RUNQY_WORKER_REDIS_TARGET = settings.REDIS_TARGET

    assert ready() == (200, "degraded", {"worker_credentials": "warning"})


def test_required_users_that_redis_does_not_let_the_server_create_are_a_warning(settings: Any) -> None:
    settings.RUNQY_WORKER_ACL = "required"
    before = ready()
    with environment.SERVER.client() as redis:
        redis.execute_command("ACL", "SETUSER", "server", *["on", ">secret", "~*", "&*", "+@all", "-acl"])
        settings.REDIS_TARGET = replace(settings.REDIS_TARGET, username="server", password="secret")
        without = ready()
        redis.acl_deluser("server")

    assert before == (200, "ok", {})
    assert without == (200, "degraded", {"worker_credentials": "warning"})


def test_whoever_asks_often_asks_nobody(monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    monkeypatch.setattr(readiness, "MAX_AGE_S", 60.0)
    monkeypatch.setattr(readiness, "_latest", (float("-inf"), []))
    before = ready()
    settings.REDIS_TARGET = away()

    assert ready() == before == (200, "ok", {})


def test_a_process_that_ends_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "_is_draining", False)

    readiness.begin_draining()

    assert ready() == (503, "not_ready", {"process": "failed"})
    assert ApiClient(None).get("/livez").status_code == 200
