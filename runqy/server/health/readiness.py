"""The readiness checks. They run at most once a second, however often they are requested."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection, connections
from django.db.migrations.executor import MigrationExecutor

from queues.existing_queues import find_undefined_queues
from runqy import clock
from runqy.accounts.queries import LIMITS_NOT_IN_REDIS, has_limits_not_in_redis
from runqy.accounts.worker_credentials import may_create_users
from runqy.broker.broker import Broker
from runqy.broker.health import (
    RedisHealth,
    check_nodes,
    is_maintenance_running,
    may_lose_append_only_file,
    probe_writes,
)
from runqy.configuration.documents import DocumentKind
from runqy.configuration.publishing import PublicationProblem, find_publication_problem
from runqy.configuration.snapshot import Snapshot, get_cache, get_snapshot
from runqy.core.database.errors import find_damage
from runqy.errors import BrokerFull, BrokerUnavailable, ConfigurationUnavailable, RunqyError
from runqy.redis_connection import get_broker
from vaults.queries import is_unlocked
from vaults.worker_secrets import has_all_master_keys
from workers.queries import OWN_CREDENTIALS_SHARED, are_own_credentials_shared

MAX_AGE_S = 1.0
TIMEOUT_S = 1.2
"""How long after their start the results of checks are waited for."""
_REDIS_UNAVAILABLE = "Redis cannot be reached or refuses the credentials."
_DATABASE_UNAVAILABLE = (
    "The database is unavailable. Configuration cannot be changed; tasks and registrations are not affected."
)
_CRITICAL = ("redis", "redis_writes", "configuration")
"""Checks without whose result the process is not ready."""
_CONFIGURATION_S = 0.3
"""How long the checks of the configuration may take at least, even if Redis has used up the time."""


class CheckStatus(StrEnum):
    """The outcome of a check."""

    OK = "ok"
    WARNING = "warning"  # something does not work as it should
    FAILED = "failed"  # this process cannot take requests


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """The outcome of a check, in words that may be public."""

    check: str
    status: CheckStatus = CheckStatus.OK
    detail: str = ""


_CONFIGURATION_UNAVAILABLE = CheckResult(
    check="configuration",
    status=CheckStatus.FAILED,
    detail="The configuration can be read from neither Redis nor the database.",
)

_PUBLICATION_PROBLEMS = {
    PublicationProblem.MISSING: "The configuration is not published in Redis yet. Workers do not see changes until "
    "maintenance publishes it.",
    PublicationProblem.ALTERED: "The published configuration was altered in Redis. It is not used, and maintenance "
    "repairs it.",
    PublicationProblem.OUTDATED: "The published configuration in Redis is older than the one of this process: a change "
    "is not published yet, or an older state was put back. Maintenance repairs it.",
    PublicationProblem.AHEAD: "The published configuration in Redis is newer than the one of this process, whose "
    "database was restored from a backup or belongs to another instance. Maintenance reports what only Redis has.",
}

_GROUPS = {
    "redis": ("redis", "redis_eviction", "redis_append_only_file", "redis_writes", "worker_credentials", "maintenance"),
    "database": ("database", "migrations"),
    "configuration": ("configuration", "vaults", "queues", "key_limits"),
}
"""The checks that depend on one store, in their order."""

_lock = threading.Lock()
_running: "dict[str, _Checks]" = {}
_latest: tuple[float, list[CheckResult]] = (float("-inf"), [])
_is_migrated = False
_is_draining = False


def start_draining() -> None:
    """Report from now on that this process is shutting down, so that it gets no more requests."""
    global _is_draining  # noqa: PLW0603 (a process ends once)
    _is_draining = True


def run_readiness_checks() -> list[CheckResult]:
    """Return results that are at most MAX_AGE_S old: the routes need no key, and may be called at any rate."""
    global _latest  # noqa: PLW0603 (a process has one)
    if _is_draining:
        return [CheckResult(check="process", status=CheckStatus.FAILED, detail="The process is shutting down.")]
    if clock.monotonic_s() - _latest[0] >= MAX_AGE_S:
        until_s = clock.monotonic_s() + TIMEOUT_S
        redis, database = _start("redis", _check_redis), _start("database", _check_database)
        of_redis = redis.results(until_s)
        # Without Redis these checks do not ask it: a silent one would use up the time limit again.
        is_available = of_redis[0].status is CheckStatus.OK
        configuration = _start("configuration", partial(_check_configuration, is_redis_available=is_available))
        extended_s = max(until_s, clock.monotonic_s() + _CONFIGURATION_S)
        found = [*of_redis, *database.results(until_s), *configuration.results(extended_s)]
        _latest = clock.monotonic_s(), found
    return _latest[1]


class _Checks(threading.Thread):
    """A group of checks on a thread of its own: a store that does not respond delays no other result."""

    def __init__(self, group: str, check: Callable[[], Iterator[CheckResult]]) -> None:
        super().__init__(name=f"runqy-readiness-{group}", daemon=True)
        self._group, self._check = group, check
        self._began_s = clock.monotonic_s()
        self._found: list[CheckResult] = []
        self._error: Exception | None = None

    def run(self) -> None:
        try:
            for result in self._check():
                self._found.append(result)
        except Exception as error:  # noqa: BLE001 (raised by `results`)
            self._error = error
        finally:
            connections.close_all()  # Django opens connections for each thread

    def results(self, until_s: float) -> list[CheckResult]:
        """Return the results that are ready at a monotonic time, or TIMEOUT_S after the start if that is earlier.

        If the checks have not ended by then, the last result names the one that is late.
        """
        self.join(max(0.0, min(until_s, self._began_s + TIMEOUT_S) - clock.monotonic_s()))
        is_late, found = self.is_alive(), [*self._found]
        if self._error is not None:
            raise self._error
        if is_late:
            done = {result.check for result in found}
            names = _GROUPS[self._group]
            name = next((name for name in names if name not in done), names[-1])
            status = CheckStatus.FAILED if name in _CRITICAL else CheckStatus.WARNING
            detail = f"Not finished within {TIMEOUT_S} s: the service does not respond, or this machine is busy."
            found.append(CheckResult(check=name, status=status, detail=detail))
        return found


def _start(group: str, check: Callable[[], Iterator[CheckResult]]) -> _Checks:
    """Start checks, unless those before have not ended yet: the checks of a silent store must not pile up."""
    with _lock:
        checks = _running.get(group)
        if checks is None or not checks.is_alive():
            checks = _running[group] = _Checks(group, check)
            checks.start()
        return checks


def _check_redis() -> Iterator[CheckResult]:
    """Check that Redis, or every master of a cluster, responds, evicts no keys and accepts writes."""
    name = "redis"
    try:
        broker = get_broker()
        nodes = broker.run(check_nodes(broker))
        if any(node.is_in_cluster for node in nodes) and not broker.is_cluster:
            detail = "Redis is a cluster: REDIS_URL must begin with redis+cluster://."
            yield CheckResult(check=name, status=CheckStatus.FAILED, detail=detail)
            return
        yield CheckResult(check=name)
        yield _check_eviction(nodes)
        yield _check_append_only_file(broker)
        name = "redis_writes"
        yield _check_writes(nodes, [error for error in probe_writes(broker) if error])
        yield _check_worker_credentials(broker)
        name = "maintenance"
        yield _check_maintenance(broker)
    except BrokerUnavailable:
        yield CheckResult(check=name, status=CheckStatus.FAILED, detail=_REDIS_UNAVAILABLE)


def _check_eviction(nodes: Sequence[RedisHealth]) -> CheckResult:
    if policy := next((node.eviction_policy for node in nodes if node.may_lose_tasks), ""):
        detail = f"Redis evicts keys ({policy}) and may lose tasks: set maxmemory-policy noeviction."
        return CheckResult(check="redis_eviction", status=CheckStatus.WARNING, detail=detail)
    return CheckResult(check="redis_eviction")


def _check_append_only_file(broker: Broker) -> CheckResult:
    if broker.run(may_lose_append_only_file(broker)):
        detail = (
            "A restart of Redis loses all tasks: it reads the append-only file as the user `default`, who is "
            "restricted. Write `user default off ~* &* +@all` into its configuration (docs/how-to/redis.md)."
        )
        return CheckResult(check="redis_append_only_file", status=CheckStatus.WARNING, detail=detail)
    return CheckResult(check="redis_append_only_file")


def _check_maintenance(broker: Broker) -> CheckResult:
    if broker.run(is_maintenance_running()):
        return CheckResult(check="maintenance")
    detail = (
        "No maintenance process has reported in the last minute. Scheduled and retry tasks do not become pending, "
        "and tasks of lost workers are not recovered. Start `runqy serve` or `runqy manage run_maintenance`."
    )
    return CheckResult(check="maintenance", status=CheckStatus.WARNING, detail=detail)


def _check_writes(nodes: Sequence[RedisHealth], errors: Sequence[RunqyError]) -> CheckResult:
    """Check that every server accepts writes. If one is full, it is a warning: reading, registering and finishing still
    work.
    """
    is_full = bool(errors) or any(node.is_nearly_full for node in nodes)
    if not is_full:
        return CheckResult(check="redis_writes")
    if all(isinstance(error, BrokerFull) for error in errors):
        detail = "Redis is out of memory. No task can be enqueued until tasks are deleted or memory is added."
        return CheckResult(check="redis_writes", status=CheckStatus.WARNING, detail=detail)
    return CheckResult(check="redis_writes", status=CheckStatus.FAILED, detail="Redis refuses writes.")


def _check_worker_credentials(broker: Broker) -> CheckResult:
    """Check that workers get Redis credentials of their own, not those of the server."""
    check = "worker_credentials"
    if are_own_credentials_shared():
        return CheckResult(check=check, status=CheckStatus.WARNING, detail=OWN_CREDENTIALS_SHARED)
    if settings.RUNQY_WORKER_ACL == "required" and not may_create_users(broker):
        detail = "The server may not create users in Redis: no worker can register (RUNQY_WORKER_ACL=required)."
        return CheckResult(check=check, status=CheckStatus.WARNING, detail=detail)
    return CheckResult(check=check)


def _check_database() -> Iterator[CheckResult]:
    """Check that the database responds and that all migrations are applied."""
    name = "database"
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        yield CheckResult(check=name)
        name = "migrations"
        is_migrated = _is_database_migrated()
    except (DatabaseError, InterfaceError) as error:
        detail = find_damage(error, with_folder=False) or _DATABASE_UNAVAILABLE
        yield CheckResult(check=name, status=CheckStatus.WARNING, detail=detail)
        return
    if is_migrated:
        yield CheckResult(check=name)
    else:
        detail = "There are unapplied migrations: `runqy manage migrate` applies them."
        yield CheckResult(check=name, status=CheckStatus.FAILED, detail=detail)


def _is_database_migrated() -> bool:
    """Return whether all migrations are applied. True is cached."""
    global _is_migrated  # noqa: PLW0603 (a process has one)
    if not _is_migrated:
        executor = MigrationExecutor(connection)
        _is_migrated = not executor.migration_plan(executor.loader.graph.leaf_nodes())
    return _is_migrated


def _check_configuration(*, is_redis_available: bool) -> Iterator[CheckResult]:
    """Check that the process has a configuration, that it is published, and that vaults can be decrypted."""
    try:
        snapshot = get_snapshot()
    except ConfigurationUnavailable:
        yield _CONFIGURATION_UNAVAILABLE
        return
    if detail := _find_configuration_problem(is_redis_available=is_redis_available):
        yield CheckResult(check="configuration", status=CheckStatus.WARNING, detail=detail)
    else:
        yield CheckResult(check="configuration")
    yield _check_vaults(snapshot)
    if is_redis_available:
        yield _check_queues()
    if has_limits_not_in_redis(snapshot):
        yield CheckResult(check="key_limits", status=CheckStatus.WARNING, detail=LIMITS_NOT_IN_REDIS)


def _find_configuration_problem(*, is_redis_available: bool) -> str:
    if not get_cache().is_confirmed():
        return (
            "Neither Redis nor the database has confirmed the configuration for a minute. Workers get no "
            "secrets and administration is disabled; tasks are not affected."
        )
    try:
        problem = find_publication_problem() if is_redis_available else None
    except BrokerUnavailable:  # it has become so since it was checked
        return ""
    return _PUBLICATION_PROBLEMS[problem] if problem else ""


def _check_queues() -> CheckResult:
    try:
        waiting = sum(queue.waiting for queue in find_undefined_queues(get_broker()))
    except BrokerUnavailable:
        return CheckResult(check="queues")
    if not waiting:
        return CheckResult(check="queues")
    tasks = "1 task" if waiting == 1 else f"{waiting:,} tasks"
    detail = f"{tasks} cannot run: no definition names their Redis queues. The admin's overview links to them."
    return CheckResult(check="queues", status=CheckStatus.WARNING, detail=detail)


def _check_vaults(snapshot: Snapshot) -> CheckResult:
    """Check that the server has the master keys of all vaults."""
    if is_unlocked():
        if has_all_master_keys(snapshot):
            return CheckResult(check="vaults")
        detail = (
            "RUNQY_VAULT_MASTER_KEY lacks keys that vault entries are encrypted with: workers that need them cannot "
            "register, and no value can be set. runqy manage vault_status lists the keys."
        )
        return CheckResult(check="vaults", status=CheckStatus.WARNING, detail=detail)
    if snapshot.of_kind(DocumentKind.VAULT):
        detail = "There are vaults, but RUNQY_VAULT_MASTER_KEY is not set."
        return CheckResult(check="vaults", status=CheckStatus.WARNING, detail=detail)
    return CheckResult(check="vaults", detail="Vaults are disabled: RUNQY_VAULT_MASTER_KEY is not set.")
