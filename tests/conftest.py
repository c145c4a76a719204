"""Fixtures that every package's tests share."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import hypothesis
import pytest
import redis as redis_py
from django.conf import settings
from django.contrib.auth.signals import user_logged_in
from django.core.cache import caches
from django.db import connection
from django.test import Client
from pytest_django.plugin import DjangoDbBlocker

from runqy import clock
from runqy.asgi import build_application
from runqy.audit import triggers
from runqy.broker.broker import Broker
from runqy.broker.connection.redis_client import RedisTarget, connect_client
from runqy.config_sync import snapshot
from runqy.health import readiness
from tasks.waiting_loop import WaitingThread, set_waiting_loop
from tests.api import planes
from tests.dataplane.servers import serve
from tests.support import environment
from tests.support.data_plane import DataPlane
from tests.support.event_loop import WatchedLoop, watch_callbacks
from tests.support.patience import extended_limits
from tests.support.secret_leaks import SUITE
from tests.support.servers import MASTER_NAME, SentinelSet, start_cluster, start_sentinel
from tests.support.speedups import empty_tables, spare_repetitions
from tests.support.waiting import PATIENCE_S

# The duration of an example depends on how busy the machine is. Each run tries the same examples, so that a change is
# judged by what it changed; `make release-check` tries others.
hypothesis.settings.register_profile(
    "runqy",
    deadline=None,
    derandomize=not float(os.environ.get("RUNQY_TEST_FUZZ_SECONDS", "0")),
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("runqy")


_SLOW = ("slow", "fault", "browser")
_DATABASE_FIXTURES = {"db", "transactional_db", "configuration"}


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with what takes long. On another database, leave out the tests that use none."""
    items.sort(key=lambda item: not any(item.get_closest_marker(name) for name in _SLOW))
    if "RUNQY_TEST_DATABASE_URL" in os.environ:
        others = [item for item in items if not _uses_database(item)]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if _uses_database(item)]


def _uses_database(item: pytest.Item) -> bool:
    names: set[str] = set(getattr(item, "fixturenames", ()))
    return not names.isdisjoint(_DATABASE_FIXTURES) or item.get_closest_marker("django_db") is not None


_END_OTHERS = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


@pytest.fixture(scope="session")
def django_db_modify_db_settings(django_db_modify_db_settings_parallel_suffix: None) -> None:
    """Keep SQLite's test database in a file: in memory, threads that write at once fail instead of waiting.

    A small log of writes, as it is looked through after each test. Nothing waits for the disk; a writer waits for the
    lock however busy the machine is.
    """
    if connection.vendor == "sqlite":
        connection.settings_dict["TEST"]["NAME"] = f"{environment.HOME}/test.sqlite3"
        connection.settings_dict["OPTIONS"]["timeout"] = PATIENCE_S
        connection.settings_dict["OPTIONS"]["init_command"] += "; PRAGMA wal_autocheckpoint=100; PRAGMA synchronous=OFF"


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """Let the tests empty the table of audit records; those of the triggers install them again.

    The first test finds the tables as empty as all others do. In the end PostgreSQL drops no database that a client is
    connected to, be it a thread that waits for another request.
    """
    with django_db_blocker.unblock():
        triggers.remove(connection)
        empty_tables()
        connection.close()  # a request before the first test with a database would not be allowed to look at it
    yield
    if connection.vendor == "postgresql":
        with django_db_blocker.unblock(), connection.cursor() as cursor:
            cursor.execute(_END_OTHERS)


@pytest.fixture(autouse=True)
def _knows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each test begin as a process that has read and cached nothing yet, and not looked whether it is ready."""
    snapshot.forget()
    if names := environment.CLIENT.keys("runqy:cache:*"):
        environment.CLIENT.delete(*names)
    with suppress(AttributeError):
        del caches["default"]  # a test may have let it connect to another Redis
    monkeypatch.setattr(readiness, "_latest", (float("-inf"), []))


@pytest.fixture(autouse=True)
def slow_callbacks() -> Iterator[list[str]]:
    """Fail a test in which a callback held up an event loop of tests/support/event_loop.py for over 100 ms."""
    with watch_callbacks() as found:
        yield found


@pytest.fixture(autouse=True, scope="session")
def _polls_no_database() -> Iterator[None]:
    """Keep this process, which serves requests too, from reading what one test stored while the next one runs."""
    with patch.object(snapshot, "start_polling"):
        yield


@pytest.fixture(autouse=True, scope="session")
def _is_patient() -> Iterator[None]:
    """Let this process wait for servers that a busy machine delays."""
    with extended_limits():
        yield


@pytest.fixture
def _waits_for_unknown_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for unknown keys and queues each time, however soon, and however long a busy machine takes."""
    monkeypatch.setattr("runqy.dataplane.background_tasks.EXTRA_REFRESH_EVERY_S", 0)


@pytest.fixture(autouse=True, scope="session")
def _hashes_passwords_fast() -> None:
    """Use a fast password hash: a good one takes a quarter of a second per login."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture(autouse=True, scope="session")
def _finishes_bulk_actions() -> Iterator[None]:
    """Let one call finish bulk actions however busy the machine is, which a tick of maintenance does not."""
    with patch("tasks.bulk_runner.TICK_S", 600.0):
        yield


@pytest.fixture(autouse=True, scope="session")
def _spares_repetitions() -> None:
    spare_repetitions()


@pytest.fixture(autouse=True, scope="session")
def _leaves_no_listener_behind() -> Iterator[None]:
    """Close the subscription to ends of tasks before its Redis goes: no log is left for its complaints."""
    yield
    if isinstance(waiting := set_waiting_loop(None), WaitingThread):
        waiting.close()


@pytest.fixture(autouse=True, scope="session")
def _enters_unrecorded() -> None:
    """Let clients that are logged in without a password leave no record: tests begin with an empty audit."""
    from runqy.accounts.logins import record_logins  # noqa: PLC0415 (needs models, which there are only now)

    force_login = Client.force_login

    def enter(client: Client, *args: Any, **kwargs: Any) -> None:
        user_logged_in.disconnect(dispatch_uid="runqy.login")
        force_login(client, *args, **kwargs)
        record_logins()

    Client.force_login = enter  # type: ignore[method-assign]


@pytest.fixture(autouse=True, scope="session")
def _leaves_no_secret_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fail the run if a secret of its vaults is anywhere but in the hands of workers."""
    with SUITE.watch():
        yield
    SUITE.look_into([environment.SERVER.folder, Path(environment.HOME), tmp_path_factory.getbasetemp()])
    assert not SUITE.leaks, "\n".join(["Secrets of vaults were found:", *dict.fromkeys(SUITE.leaks)])


@pytest.fixture
def stopped_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the time of day stand still in this process: no heartbeat grows old, no minute, hour or day ends."""
    stopped_ns, monotonic_ns = clock.now_ns(), clock.monotonic_ns()
    monkeypatch.setattr(clock, "now_ns", lambda: stopped_ns)
    monkeypatch.setattr(clock, "monotonic_ns", lambda: monotonic_ns)


@pytest.fixture
def data_plane() -> Iterator[DataPlane]:
    """Return the data plane, on an event loop in this process; its background tasks end with the test."""
    plane = DataPlane()
    yield plane
    plane.close()


@pytest.fixture
def served_data_plane(_waits_for_unknown_names: None) -> Iterator[str]:
    """Return the URL of the server's own application, which uvicorn serves on a thread of this process."""
    with serve(build_application(), loop_factory=WatchedLoop) as client:
        yield f"http://127.0.0.1:{client.port}"


@pytest.fixture(params=["viewsets", "data_plane"])
def each_plane(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test against DRF's viewsets, and again with the data plane in front of them."""
    if request.param == "data_plane":
        request.getfixturevalue("_waits_for_unknown_names")
        monkeypatch.setattr(planes, "data_plane", request.getfixturevalue("data_plane"))
    plane: str = request.param
    return plane


@pytest.fixture
def configuration(redis: redis_py.Redis, transactional_db: None, request: pytest.FixtureRequest) -> Iterator[None]:
    """Let the test save configuration, which is published when a transaction really ends; both stores start empty.

    What it leaves in the database is looked through before it is emptied.
    """
    yield
    SUITE.look_into_database(request.node.nodeid)


@pytest.fixture
def redis() -> redis_py.Redis:
    """Return a plain client for the tests' own server, which starts empty."""
    environment.CLIENT.flushall()
    return environment.CLIENT


@pytest.fixture
def single_broker(redis: redis_py.Redis) -> Iterator[Broker]:
    """Return a broker on the tests' own server, which starts empty."""
    broker = Broker.connect(RedisTarget(addresses=(("127.0.0.1", environment.SERVER.port),)))
    yield broker
    broker.close()


@pytest.fixture(scope="session")
def cluster_target() -> Iterator[RedisTarget]:
    """Return where a cluster of three masters is, started once for the process."""
    servers = start_cluster()
    yield RedisTarget(mode="cluster", addresses=tuple(("127.0.0.1", server.port) for server in servers))
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def _cluster_client(cluster_target: RedisTarget) -> Iterator[redis_py.RedisCluster]:
    """Return a client of the cluster for all tests; to connect takes as long as most of them."""
    client = connect_client(cluster_target)
    assert isinstance(client, redis_py.RedisCluster)
    yield client
    client.close()


@pytest.fixture
def cluster_broker(_cluster_client: redis_py.RedisCluster) -> Broker:
    """Return a broker on the cluster, which starts empty."""
    _cluster_client.flushall(target_nodes="primaries")
    return Broker(_cluster_client)


@pytest.fixture
def sentinel_set() -> Iterator[SentinelSet]:
    """Return a master, its replica and a Sentinel, of which the test may kill any."""
    servers = start_sentinel()
    yield servers
    servers.stop()


@pytest.fixture
def sentinel_broker(sentinel_set: SentinelSet) -> Iterator[Broker]:
    """Return a broker that knows only the Sentinel."""
    addresses = (("127.0.0.1", sentinel_set.sentinel.port),)
    broker = Broker.connect(RedisTarget(mode="sentinel", addresses=addresses, master_name=MASTER_NAME))
    yield broker
    broker.close()


@pytest.fixture(params=["single", pytest.param("cluster", marks=pytest.mark.cluster)])
def broker(request: pytest.FixtureRequest) -> Broker:
    """Return a broker, once on a single server and once on the cluster; look at keys through `broker.client`."""
    return request.getfixturevalue(f"{request.param}_broker")
