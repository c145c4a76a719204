"""What holds for every test: the order, and that each begins as a new process does. Fixtures are in tests/fixtures."""

import gc
import math
import os
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import current_thread
from typing import Any
from unittest.mock import patch

import hypothesis
import pytest
from django.core.cache import caches
from django.core.signals import setting_changed
from django.dispatch import receiver
from django.test.utils import CaptureQueriesContext

from runqy import clock, redis_connection
from runqy.broker.async_broker import PARTED_NS
from runqy.configuration import snapshot
from runqy.core.concurrency import event_loop
from runqy.core.environment.process import collect_rarely
from runqy.server.health import readiness
from tasks.waiting_loop import ServingLoop, set_waiting_loop
from tests.support import environment
from tests.support.event_loop import watch_callbacks
from tests.support.links import reset_clock
from tests.support.patience import extended_limits
from tests.support.secret_leaks import SUITE

pytest_plugins = ["tests.fixtures.database", "tests.fixtures.planes", "tests.fixtures.redis_servers"]

os.environ["DJANGO_SETTINGS_MODULE"] = "runqy.settings"  # of the processes that tests start: as in production

# The duration of an example depends on how busy the machine is. Each run tries the same examples, so that a change is
# judged by what it changed; `make release-check` tries others.
hypothesis.settings.register_profile(
    "runqy",
    deadline=None,
    derandomize=not float(os.environ.get("RUNQY_TEST_FUZZ_SECONDS", "0")),
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("runqy")


_FIRST = ("docs", "postgresql", "browser", "slow", "fault")
"""Markers of what takes long, the longest first."""
_DATABASE_FIXTURES = {"db", "transactional_db", "configuration"}


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Let no collection of garbage look through the tests and what they import, neither now nor while they run."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        collect_rarely()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with what takes long. On another database, leave out the tests that use none."""
    items[:] = _sort(items)
    if "RUNQY_TEST_DATABASE_URL" in os.environ:
        others = [item for item in items if not _uses_database(item)]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if _uses_database(item)]


def _sort(items: Iterable[pytest.Item]) -> list[pytest.Item]:
    """Begin with the modules and classes that take long, since xdist distributes whole ones.

    Those with a browser follow one another: each process then starts one browser and one server for all of its own.
    """
    ranks: dict[str, int] = {}
    for item in items:
        unit = _get_unit(item)
        ranks[unit] = min(ranks.get(unit, len(_FIRST)), _get_rank(item))
    return sorted(items, key=lambda item: ranks[_get_unit(item)])


def _get_unit(item: pytest.Item) -> str:
    return item.nodeid.rpartition("::")[0]


def _get_rank(item: pytest.Item) -> int:
    return next((rank for rank, name in enumerate(_FIRST) if item.get_closest_marker(name)), len(_FIRST))


def _uses_database(item: pytest.Item) -> bool:
    names: set[str] = set(getattr(item, "fixturenames", ()))
    return not names.isdisjoint(_DATABASE_FIXTURES) or item.get_closest_marker("django_db") is not None


@pytest.fixture(autouse=True)
def _knows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each test begin as a process that has read and cached nothing yet, and not looked whether it is ready."""
    snapshot.forget()
    if environment.SERVER.process is not None and (names := environment.CLIENT.keys("runqy:cache:*")):
        environment.CLIENT.delete(*names)
    with suppress(AttributeError):
        del caches["default"]  # a test may have let it connect to another Redis
    monkeypatch.setattr(readiness, "_latest", (float("-inf"), []))


@pytest.fixture(autouse=True, scope="session")
def _counts_between_polls() -> Iterator[None]:
    """Let no counted block contain the query by which a process looks once a second for a newer configuration."""
    enter, leave = CaptureQueriesContext.__enter__, CaptureQueriesContext.__exit__
    held: list[Any] = []

    def enter_held(self: CaptureQueriesContext) -> CaptureQueriesContext:
        held.append(patch.object(snapshot.get_cache(), "refreshed_at", math.inf))
        held[-1].start()
        return enter(self)

    def leave_held(self: CaptureQueriesContext, *raised: Any) -> None:
        held.pop().stop()
        leave(self, *raised)

    with patch.multiple(CaptureQueriesContext, __enter__=enter_held, __exit__=leave_held):
        yield


@receiver(setting_changed)
def _forget_values(**_: object) -> None:
    """Discard what was computed from settings, which change only in tests."""
    snapshot.get_cache().forget_values()


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


@pytest.fixture(autouse=True, scope="session")
def _measures_the_clock_once() -> Iterator[None]:
    """Keep a measurement from setting the clock back by a few milliseconds between two lines of a test."""
    with patch.object(redis_connection, "CLOCK_VALID_S", math.inf):
        yield


@pytest.fixture(autouse=True, scope="session")
def _blocks_its_own_loops() -> Iterator[None]:
    """Let a coroutine of a test use the broker of threads, which keeps nobody waiting but the test's own loop.

    On the process's event loop that would wait for itself for ever, and is an error as ever.
    """
    with patch.object(event_loop, "is_event_loop_running", lambda: current_thread().name == event_loop.THREAD_NAME):
        yield


@pytest.fixture(autouse=True, scope="session")
def _finishes_bulk_actions() -> Iterator[None]:
    """Let one call finish bulk actions however busy the machine is, which a tick of maintenance does not."""
    with patch("tasks.bulk_runner.TICK_S", 600.0):
        yield


@pytest.fixture(autouse=True)
def _ends_waits() -> Iterator[None]:
    """End what the clients of threads wait for: it must not go on in the background of the next test."""
    yield
    waiting = set_waiting_loop(None)
    if isinstance(waiting, ServingLoop):
        set_waiting_loop(waiting)  # of a server that several tests share
    elif waiting is not None:
        waiting.run(waiting.waiters.close())


@pytest.fixture(autouse=True)
def _leaves_the_clock_right() -> Iterator[None]:
    """Forget what was measured while the test held the clock: measured again later, the time would go back."""
    yield
    for broker in redis_connection._brokers.values():  # noqa: SLF001 (those that tests share)
        if abs(broker.now_ns() - time.time_ns()) > PARTED_NS // 10:
            reset_clock(broker)


@pytest.fixture(autouse=True, scope="session")
def _leaves_no_secret_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fail the run if a secret of its vaults is anywhere but with workers."""
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
