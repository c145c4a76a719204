"""Collects what the first page of the admin tells: how much there is, and what somebody should look at."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from django.http import HttpRequest
from django.urls import reverse

from queues.definitions import QueueDefinition
from queues.queries import get_fresh_catalog, queue_vault_problems
from runqy.accounts.models import ApiKey
from runqy.broker.broker import Broker
from runqy.broker.counting import QueueCounts, count_tasks
from runqy.broker.health import is_maintenance_running
from runqy.broker.heartbeats import find_workers
from runqy.broker.worker_records import WorkerRecord, WorkerState
from runqy.connection import get_broker
from runqy.errors import BrokerUnavailable, ConfigurationUnavailable
from runqy.publication.republishing import compare_configuration
from vaults.models import Vault
from vaults.queries import is_unlocked
from workers.queries import OWN_CREDENTIALS_SHARED, are_own_credentials_shared

_SHOWN_QUEUES = 8
_LEVELS = ("danger", "warning", "info")
_NAMED = 3
"""How many names a sentence has before it says how many more there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """One of the numbers on top."""

    title: str
    value: int
    url: str
    remark: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Concern:
    """Something that somebody should look at."""

    sentence: str
    url: str = ""
    link: str = ""
    level: str = "warning"


@dataclass(slots=True, kw_only=True)
class QueueLine:
    """A queue with its tasks, those of its sub-queues together."""

    name: str
    is_enabled: bool
    is_paused: bool = False
    pending: int = 0
    active: int = 0
    retry: int = 0
    archived: int = 0
    workers: int = 0

    @property
    def url(self) -> str:
        """Return where the tasks of the queue are."""
        return f"{_list('tasks_task')}?{urlencode({'q': self.name})}"


@dataclass(slots=True, kw_only=True)
class _Traffic:
    """What Redis tells about the queues that are defined."""

    lines: list[QueueLine] = field(default_factory=list)
    workers: list[WorkerRecord] = field(default_factory=list)
    now_s: int = 0


def add_overview(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """Return the context of the first page with what its user may see; unfold calls this."""
    may = request.user.has_perm
    numbers: list[Number] = []
    concerns: list[Concern] = []
    queues: Sequence[QueueDefinition] = ()
    traffic = _Traffic()
    try:
        queues = get_fresh_catalog().definitions
        traffic = _read_traffic(get_broker(), queues)
        if may("queues.view_queue"):
            concerns += [*_concerns_of_maintenance(), *_concerns_of_publication()]
            concerns += _concerns_of_queues(queues, traffic)
        if may("workers.view_worker"):
            concerns += _concerns_of_workers(traffic)
    except (BrokerUnavailable, ConfigurationUnavailable):
        sentence = "Redis cannot be reached: tasks wait, and changes are kept and published once it is back."
        concerns.append(Concern(sentence=sentence, level="danger"))
    if may("queues.view_queue"):
        numbers += _numbers_of_queues(queues, traffic)
    if may("workers.view_worker"):
        numbers.append(_number_of_workers(traffic))
    if may("vaults.view_vault"):
        numbers.append(Number(title="Vaults", value=Vault.objects.count(), url=_list("vaults_vault")))
        concerns += _concerns_of_vaults()
    if may("accounts.view_apikey"):
        valid = ApiKey.objects.filter(revoked_at=None).count()
        numbers.append(Number(title="API keys", value=valid, url=_list("accounts_apikey"), remark="not revoked"))
    return context | {
        "numbers": numbers,
        "concerns": sorted(concerns, key=lambda concern: _LEVELS.index(concern.level)),
        "lines": _busiest(traffic.lines) if may("queues.view_queue") else [],
        "has_queues": bool(queues),
        "origin": request.build_absolute_uri("/").rstrip("/"),
    }


def _read_traffic(broker: Broker, queues: Sequence[QueueDefinition]) -> _Traffic:
    """Count all tasks in one round trip, and find the workers."""
    separator = get_fresh_catalog().separator
    names = {name: queue.name for queue in queues for name, _ in queue.redis_queues(separator)}
    counted = broker.run(count_tasks(list(names), now_ns=broker.now_ns())) if names else []
    lines = {queue.name: QueueLine(name=queue.name, is_enabled=queue.is_enabled) for queue in queues}
    for count in counted:
        _add(lines[names[count.queue]], count)
    workers = find_workers(broker)
    now_s = broker.now_s()
    for worker in workers:
        if worker.state is WorkerState.READY and not worker.is_stale(now_s):
            for queue in {names[name] for name in worker.redis_queues if name in names}:
                lines[queue].workers += 1
    return _Traffic(lines=list(lines.values()), workers=workers, now_s=now_s)


def _add(line: QueueLine, count: QueueCounts) -> None:
    """Add the tasks of a Redis queue to those of its queue."""
    line.pending += count.pending
    line.active += count.active
    line.retry += count.retry
    line.archived += count.archived
    line.is_paused = line.is_paused or count.is_paused


def _busiest(lines: list[QueueLine]) -> list[QueueLine]:
    """Return the queues with the most tasks to do."""
    return sorted(lines, key=lambda line: (-line.pending - line.active - line.retry, line.name))[:_SHOWN_QUEUES]


def _numbers_of_queues(queues: Sequence[QueueDefinition], traffic: _Traffic) -> Iterator[Number]:
    """Give the numbers of queues and tasks."""
    disabled = sum(not queue.is_enabled for queue in queues)
    remark = f"{disabled} disabled" if disabled else ""
    yield Number(title="Queues", value=len(queues), url=_list("queues_queue"), remark=remark)
    tasks = _list("tasks_task")
    waiting, retry = sum(line.pending for line in traffic.lines), sum(line.retry for line in traffic.lines)
    yield Number(title="Waiting", value=waiting, url=tasks, remark=f"{retry:,} retrying" if retry else "")
    yield Number(title="Running", value=sum(line.active for line in traffic.lines), url=tasks)
    yield Number(title="Failed", value=sum(line.archived for line in traffic.lines), url=tasks)


def _number_of_workers(traffic: _Traffic) -> Number:
    """Return the number of workers that are alive."""
    alive = [worker for worker in traffic.workers if not worker.is_stale(traffic.now_s)]
    ready = sum(worker.state is WorkerState.READY for worker in alive)
    return Number(title="Workers", value=len(alive), url=_list("workers_worker"), remark=f"{ready:,} ready")


def _concerns_of_maintenance() -> Iterator[Concern]:
    """Give a concern where no maintenance process runs."""
    if not get_broker().run(is_maintenance_running()):
        sentence = (
            "No maintenance process runs: delayed tasks and retries do not start, and tasks of lost workers are not "
            "recovered. Start `runqy serve` or `manage.py run_maintenance`, and look into its log."
        )
        yield Concern(sentence=sentence, level="danger")


def _concerns_of_publication() -> Iterator[Concern]:
    """Tell whether Redis has what the database has."""
    comparison = compare_configuration()
    if comparison.is_ahead:
        yield Concern(
            sentence="Redis has newer configuration than the database: manage.py publish_configuration --replace.",
            level="danger",
        )
    elif comparison.is_tampered:
        yield Concern(
            sentence="The published configuration was altered in Redis, or an older one was put back; servers do not "
            "use it, and maintenance repairs it within seconds.",
            level="danger",
        )
    elif not comparison.is_agreed:
        yield Concern(sentence="Some changes are not published yet; maintenance does it within seconds.")


def _concerns_of_queues(queues: Sequence[QueueDefinition], traffic: _Traffic) -> Iterator[Concern]:
    """Tell which queues workers cannot serve, which have none, and which are paused."""
    url = _list("queues_queue")
    problems = queue_vault_problems([queue.name for queue in queues if queue.is_enabled])
    if broken := [name for name, found in problems.items() if found]:
        sentence = f"Workers cannot register for {_named(broken)}: a vault is missing or does not open."
        yield Concern(sentence=sentence, url=url, link="Queues", level="danger")
    if stuck := [
        line.name
        for line in traffic.lines
        if line.pending and not line.workers and line.is_enabled and not line.is_paused
    ]:
        sentence = f"Tasks wait and no worker is ready for {_named(stuck)}."
        yield Concern(sentence=sentence, url=_list("workers_worker"), link="Workers")
    if paused := [line.name for line in traffic.lines if line.is_paused]:
        yield Concern(sentence=f"Paused: {_named(paused)}.", url=url, link="Queues", level="info")


def _concerns_of_workers(traffic: _Traffic) -> Iterator[Concern]:
    """Give concerns about workers that run nothing although they should, or may do more than they should."""
    url = _list("workers_worker")
    if are_own_credentials_shared():
        yield Concern(sentence=OWN_CREDENTIALS_SHARED)
    if failed := [worker.worker_id for worker in traffic.workers if worker.state is WorkerState.START_FAILED]:
        yield Concern(sentence=f"Failed to start: {_named(failed)}.", url=url, link="Workers", level="danger")
    if stale := [worker.worker_id for worker in traffic.workers if worker.is_stale(traffic.now_s)]:
        yield Concern(sentence=f"Not heard of lately: {_named(stale)}.", url=url, link="Workers")


def _concerns_of_vaults() -> Iterator[Concern]:
    """Tell whether vaults can be opened at all."""
    if not is_unlocked():
        sentence = "Vaults are off: the server has no master key (RUNQY_VAULT_MASTER_KEY)."
        yield Concern(sentence=sentence, level="info")


def _named(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    more = len(names) - _NAMED
    first = ", ".join(names[:_NAMED])
    return f"{first} and {more:,} more" if more > 0 else first


def _list(model: str) -> str:
    """Return where the rows of a model are."""
    return reverse(f"admin:{model}_changelist")
