"""Finds out whether this process can take requests: asks each store once, at most once a second, and not for long."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future

from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection, connections
from django.db.migrations.executor import MigrationExecutor

from runqy import clock
from runqy.accounts.redis_users import may_create_users
from runqy.api.health import CheckResult, CheckStatus
from runqy.broker.broker import Broker
from runqy.broker.health import check_nodes, is_maintenance_running, probe_writes
from runqy.connection import get_broker
from runqy.errors import BrokerFull, BrokerUnavailable, ConfigurationUnavailable, RunqyError
from runqy.publication.derived import Snapshot
from runqy.publication.documents import Kind
from runqy.publication.heads import HeadProblem
from runqy.publication.snapshot import get_cache, get_snapshot
from vaults.queries import is_unlocked
from workers.queries import OWN_CREDENTIALS_SHARED, are_own_credentials_shared

MAX_AGE_S = 1.0
TIMEOUT_S = 1.2
"""How long a check may take; after it a store that does not respond counts as away."""

_REDIS_AWAY = CheckResult(
    check="redis", status=CheckStatus.FAILED, detail="Redis cannot be reached, or refuses these credentials."
)
_DATABASE_AWAY = CheckResult(
    check="database",
    status=CheckStatus.WARNING,
    detail="The database cannot be reached: configuration cannot be changed; tasks and registrations go on.",
)
_CONFIGURATION_AWAY = CheckResult(
    check="configuration",
    status=CheckStatus.FAILED,
    detail="The configuration can be read neither from Redis nor from the database.",
)

_NOT_PUBLISHED = (
    "Redis does not publish the configuration (yet): workers do not see changes, and maintenance repairs it."
)
_ALTERED = "The published configuration was altered in Redis; it is not used, and maintenance repairs it."
_HEAD_PROBLEMS = {
    HeadProblem.MISSING: _NOT_PUBLISHED,
    HeadProblem.UNSIGNED: "An earlier release published the configuration last; maintenance publishes it again.",
    HeadProblem.REFUSED: _ALTERED,
    HeadProblem.PUT_BACK: "An older published configuration was put back in Redis; it is not used, and maintenance "
    "repairs it.",
    HeadProblem.BEHIND: "Redis publishes an older configuration than this process knows: a change is not published "
    "yet, or an older state was put back; maintenance repairs it.",
    HeadProblem.INCOMPLETE: "The documents in Redis are not those that the published configuration consists of; "
    "maintenance repairs it, or reports what only Redis has.",
}

_latest: tuple[float, list[CheckResult]] = (float("-inf"), [])
_is_migrated = False
_is_draining = False


def begin_draining() -> None:
    """Say from here on that this process is to get no more requests, for it ends."""
    global _is_draining  # noqa: PLW0603 (a process ends once)
    _is_draining = True


def run_readiness_checks() -> list[CheckResult]:
    """Return what the checks found, no longer ago than a second: anybody may ask, and as often as they like."""
    global _latest  # noqa: PLW0603 (a process has one)
    if _is_draining:
        return [CheckResult(check="process", status=CheckStatus.FAILED, detail="The process ends.")]
    if clock.monotonic_s() - _latest[0] >= MAX_AGE_S:
        _redis.start(_check_redis)
        _database.start(_check_database)
        of_redis, of_database = _redis.results(), _database.results()
        # One that is silent would take its time once more for each further question.
        is_there = of_redis[0].status is CheckStatus.OK
        _configuration.start(lambda: _check_configuration(is_redis_there=is_there))
        _latest = clock.monotonic_s(), [*of_redis, *of_database, *_configuration.results()]
    return _latest[1]


class BoundedCheck:
    """Runs a check on a thread, and waits for it at most TIMEOUT_S from when it began. One runs at a time."""

    def __init__(self, late: CheckResult) -> None:
        """Take the result of a check that takes too long."""
        self._late = late
        self._lock = threading.Lock()
        self._running: Future[list[CheckResult]] = Future()
        self._running.set_result([])
        self._began_s = 0.0

    def start(self, check: Callable[[], Iterable[CheckResult]]) -> None:
        """Begin a check, unless the one before still runs."""
        with self._lock:
            if self._running.done():
                self._running, self._began_s = Future(), clock.monotonic_s()
                threading.Thread(target=self._run, args=(check, self._running), daemon=True).start()

    def results(self) -> list[CheckResult]:
        """Return what the check found."""
        running, began_s = self._running, self._began_s
        try:
            return running.result(max(0.0, began_s + TIMEOUT_S - clock.monotonic_s()))
        except TimeoutError:
            return [self._late]

    @staticmethod
    def _run(check: Callable[[], Iterable[CheckResult]], running: "Future[list[CheckResult]]") -> None:
        found: list[CheckResult] | None = None
        try:
            found = list(check())
        except Exception as error:  # noqa: BLE001 (it is raised where the result is awaited)
            running.set_exception(error)
        finally:
            connections.close_all()  # nothing else runs on this thread
        if found is not None:
            running.set_result(found)


def _check_redis() -> Iterator[CheckResult]:
    """Look whether Redis, every master of a cluster, answers, keeps what it is given, and takes writes."""
    try:
        broker = get_broker()
        nodes = check_nodes(broker)
        if any(node.is_in_cluster for node in nodes) and not broker.is_cluster:
            detail = "Redis is a cluster, which REDIS_URL has to say: redis+cluster://."
            yield CheckResult(check="redis", status=CheckStatus.FAILED, detail=detail)
            return
        written = probe_writes(broker)
        has_maintenance = broker.run(is_maintenance_running())
    except BrokerUnavailable:
        yield _REDIS_AWAY
        return
    yield CheckResult(check="redis")
    if policy := next((node.eviction_policy for node in nodes if node.may_lose_tasks), ""):
        detail = f"Redis evicts keys ({policy}) and may lose tasks: set noeviction."
        yield CheckResult(check="redis_eviction", status=CheckStatus.WARNING, detail=detail)
    else:
        yield CheckResult(check="redis_eviction")
    yield _check_writes([error for error in written if error])
    yield _check_worker_credentials(broker)
    if has_maintenance:
        yield CheckResult(check="maintenance")
    else:
        detail = (
            "No maintenance process has reported in the last minute: delayed tasks and retries do not become pending, "
            "and tasks of lost workers are not recovered. Start `runqy serve` or `manage.py run_maintenance`."
        )
        yield CheckResult(check="maintenance", status=CheckStatus.WARNING, detail=detail)


def _check_writes(errors: Sequence[RunqyError]) -> CheckResult:
    """Return whether every server takes writes; where one is full, reading, registering and finishing go on."""
    if not errors:
        return CheckResult(check="redis_writes")
    if all(isinstance(error, BrokerFull) for error in errors):
        detail = (
            "Redis is full: no task can be enqueued until some are deleted or it has more memory. The rest goes on."
        )
        return CheckResult(check="redis_writes", status=CheckStatus.WARNING, detail=detail)
    return CheckResult(check="redis_writes", status=CheckStatus.FAILED, detail="Redis takes no writes.")


def _check_worker_credentials(broker: Broker) -> CheckResult:
    """Look whether workers enter Redis by less than the server's own credentials, and whether they can enter at all."""
    check = "worker_credentials"
    if are_own_credentials_shared():
        return CheckResult(check=check, status=CheckStatus.WARNING, detail=OWN_CREDENTIALS_SHARED)
    if settings.RUNQY_WORKER_ACL == "required" and not may_create_users(broker):
        detail = "Redis lets this server create no users: no worker can register (RUNQY_WORKER_ACL=required)."
        return CheckResult(check=check, status=CheckStatus.WARNING, detail=detail)
    return CheckResult(check=check)


def _check_database() -> Iterator[CheckResult]:
    """Look whether the database answers and has the tables that this version needs; without it most things go on."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        has_tables = _has_tables()
    except (DatabaseError, InterfaceError):
        yield _DATABASE_AWAY
        return
    yield CheckResult(check="database")
    if has_tables:
        yield CheckResult(check="migrations")
    else:
        detail = "Migrations are missing: run manage.py migrate."
        yield CheckResult(check="migrations", status=CheckStatus.FAILED, detail=detail)


def _has_tables() -> bool:
    """Tell whether all migrations are applied; once they are, a process need not ask again."""
    global _is_migrated  # noqa: PLW0603 (a process has one)
    if not _is_migrated:
        executor = MigrationExecutor(connection)
        _is_migrated = not executor.migration_plan(executor.loader.graph.leaf_nodes())
    return _is_migrated


def _check_configuration(*, is_redis_there: bool) -> Iterator[CheckResult]:
    """Look whether this process knows the configuration, whether Redis publishes it, and whether vaults open."""
    try:
        snapshot = get_snapshot(0 if is_redis_there else float("inf"))
    except ConfigurationUnavailable:
        yield _CONFIGURATION_AWAY
        return
    if detail := _find_configuration_problem(snapshot, is_redis_there=is_redis_there):
        yield CheckResult(check="configuration", status=CheckStatus.WARNING, detail=detail)
    else:
        yield CheckResult(check="configuration")
    yield _check_vaults(snapshot)


def _find_configuration_problem(snapshot: Snapshot, *, is_redis_there: bool) -> str:
    """Return what is wrong with the configuration, or an empty string."""
    cache = get_cache()
    if not cache.is_confirmed():
        return (
            "Neither Redis nor the database has confirmed the configuration for RUNQY_CONFIG_MAX_AGE: secrets are not "
            "handed out and nothing can be administered; tasks go on."
        )
    if not is_redis_there or cache.head_problem is None:
        return ""
    if cache.head_problem is HeadProblem.MISSING and not snapshot.documents:
        return ""
    return _HEAD_PROBLEMS[cache.head_problem]


def _check_vaults(snapshot: Snapshot) -> CheckResult:
    """Look whether there is a key for the vaults."""
    if is_unlocked():
        return CheckResult(check="vaults")
    if snapshot.of_kind(Kind.VAULT):
        detail = "There are vaults, and no key to open them (RUNQY_VAULT_MASTER_KEY)."
        return CheckResult(check="vaults", status=CheckStatus.WARNING, detail=detail)
    return CheckResult(check="vaults", detail="Vaults are off: there is no key (RUNQY_VAULT_MASTER_KEY).")


_redis, _database, _configuration = (
    BoundedCheck(_REDIS_AWAY),
    BoundedCheck(_DATABASE_AWAY),
    BoundedCheck(_CONFIGURATION_AWAY),
)
