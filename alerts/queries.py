"""Observe the installation for the rules, and read alerts."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from django.db.models import Exists, F, OuterRef, Q, QuerySet
from django.utils import timezone

from alerts.models import UNDELIVERED, Alert, AlertDelivery, AlertRule, DeliveryEvent, KnownMaster
from alerts.rules import (
    GROWTH_WINDOW_MIN,
    IDLE_S,
    RULES,
    AlertKind,
    AlertLevel,
    GetSettings,
    Observation,
    QueueObservation,
    RuleSettings,
    WorkerObservation,
)
from queues.catalog import AllowedQueues, QueueCatalog
from queues.queries import get_fresh_catalog, list_vault_errors
from runqy.accounts.queries import find_keys_of_inactive_users
from runqy.broker.broker import Broker
from runqy.broker.health import check_nodes
from runqy.broker.queues.stats import QueueCounts, count_tasks
from runqy.broker.workers.heartbeats import list_worker_records
from runqy.broker.workers.records import WorkerRecord, WorkerState
from runqy.config_sync.publishing import compare_configuration
from tasks.history.stats import StatsPoint, get_stats_by_queue
from vaults.queries import find_key_error


class AlertState(StrEnum):
    """Which alerts to list."""

    OPEN = "open"
    RESOLVED = "resolved"
    ALL = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertPage:
    """A page of alerts, the newest first."""

    alerts: list[Alert]
    end: int | None
    """The id of the last alert; None on the last page."""


def list_alerts(  # noqa: PLR0913 (each limits the list)
    state: AlertState,
    *,
    limit: int,
    allowed_queues: AllowedQueues = None,
    queue: str = "",
    levels: Collection[AlertLevel] = tuple(AlertLevel),
    since: datetime | None = None,
    before: int | None = None,
) -> AlertPage:
    """Return a page of alerts that were opened. With `allowed_queues` only those about one of these queues."""
    alerts = filter_alerts(state).filter(level__in=levels)
    if queue:
        alerts = alerts.filter(queue=queue)
    if allowed_queues is not None:
        alerts = alerts.filter(queue__in=allowed_queues)
    if since is not None:
        alerts = alerts.filter(opened_at__gte=since)
    if before is not None:
        alerts = alerts.filter(pk__lt=before)
    found = list(alerts.order_by("-pk")[: limit + 1])
    return AlertPage(alerts=found[:limit], end=found[limit - 1].pk if len(found) > limit else None)


def filter_alerts(state: AlertState) -> QuerySet[Alert]:
    opened = Alert.objects.filter(opened_at__isnull=False)
    conditions = {
        AlertState.OPEN: Q(resolved_at__isnull=True),
        AlertState.RESOLVED: Q(resolved_at__isnull=False),
        AlertState.ALL: Q(),
    }
    return opened.filter(conditions[state])


def list_unresolved(*, limit: int) -> list[Alert]:
    """Return unresolved alerts: critical ones first, then open ones, then the latest.

    Those that are not open are conditions that have not lasted long enough yet.
    """
    unresolved = Alert.objects.filter(resolved_at__isnull=True)
    return list(unresolved.order_by("level", F("opened_at").desc(nulls_last=True), "-since", "pk")[:limit])


def count_open() -> int:
    return filter_alerts(AlertState.OPEN).count()


def load_rule_settings() -> GetSettings:
    """Read the settings of all rules in one query."""
    stored = {(row.kind, row.queue.name if row.queue else ""): row for row in AlertRule.objects.select_related("queue")}

    def get_settings(kind: AlertKind, queue: str) -> RuleSettings:
        row = stored.get((kind.value, queue)) or stored.get((kind.value, ""))
        return row.settings if row else RULES[kind].defaults

    return get_settings


def list_due_deliveries(now: datetime, *, limit: int) -> Sequence[AlertDelivery]:
    """Return the deliveries to send, oldest first. That of a resolution waits until that of its opening was sent."""
    opening = AlertDelivery.objects.filter(UNDELIVERED, alert=OuterRef("alert"), event=DeliveryEvent.OPENED)
    due = AlertDelivery.objects.filter(UNDELIVERED, due_at__lte=now)
    due = due.exclude(Exists(opening), event=DeliveryEvent.RESOLVED)
    return list(due.select_related("alert").order_by("due_at", "pk")[:limit])


def observe(broker: Broker) -> Observation:
    """Read what the rules need. Raise BrokerUnavailable, ConfigurationUnavailable.

    The number of round trips and queries does not depend on the number of queues.
    """
    now, now_s = timezone.now(), broker.now_s()
    workers, catalog = list_worker_records(broker), get_fresh_catalog()
    counts = _count_tasks(broker, catalog)
    nodes = check_nodes(broker)
    minutes = _read_minutes(now, paused=[name for name, count in counts.items() if count.is_paused])
    return Observation(
        queues=_observe_queues(catalog, counts, workers, minutes, now_s=now_s),
        workers=[_observe_worker(worker, catalog, now_s) for worker in workers],
        publication_problem=compare_configuration().detail,
        master_key_error=find_key_error(),
        inactive_creators=find_keys_of_inactive_users(),
        history_dropped={
            queue: dropped for queue, points in minutes.items() if (dropped := sum(point.dropped for point in points))
        },
        memory_use=max(node.memory.use for node in nodes),
        masters=[node for node in nodes if node.replication_id],
        known_masters=set(KnownMaster.objects.values_list("replication_id", flat=True)),
        now=now,
    )


def _count_tasks(broker: Broker, catalog: QueueCatalog) -> dict[str, QueueCounts]:
    names = catalog.redis_queues()
    return {each.queue: each for each in broker.run(count_tasks(names, now_ns=broker.now_ns()))} if names else {}


def _observe_queues(
    catalog: QueueCatalog,
    counts: Mapping[str, QueueCounts],
    workers: Sequence[WorkerRecord],
    minutes: Mapping[str, Sequence[StatsPoint]],
    *,
    now_s: int,
) -> list[QueueObservation]:
    """Join the parts by queue; `counts` are by Redis queue."""
    vault_errors = list_vault_errors([queue.name for queue in catalog.definitions])
    served = {name for worker in workers if worker.is_ready(now_s) for name in worker.redis_queues}
    dying: dict[str, list[WorkerRecord]] = defaultdict(list)
    for worker in workers:
        if worker.shared_deaths > 0:
            dying[worker.queue].append(worker)
    return [
        QueueObservation(
            name=queue.name,
            is_enabled=queue.is_enabled,
            redis_queues=[counts[name] for name, _ in catalog.redis_queues_of(queue)],
            served=served,
            vault_errors=tuple(vault_errors[queue.name]),
            minutes=minutes.get(queue.name, ()),
            shared_deaths=sum(worker.shared_deaths for worker in dying.get(queue.name, ())),
            shared_death_tasks=min((worker.shared_death_tasks for worker in dying.get(queue.name, ())), default=0),
        )
        for queue in catalog.definitions
    ]


def _read_minutes(now: datetime, *, paused: Collection[str]) -> dict[str, list[StatsPoint]]:
    """Return by queue the minutes of the longest window, and the current minute."""
    start = now - timedelta(minutes=GROWTH_WINDOW_MIN)
    return get_stats_by_queue(start=start, end=now + timedelta(seconds=1), step_s=60, without_backlog=paused)


def _observe_worker(worker: WorkerRecord, catalog: QueueCatalog, now_s: int) -> WorkerObservation:
    is_missing = worker.is_stale(now_s)
    return WorkerObservation(
        worker_id=worker.worker_id,
        queue=_find_queue_of_go_worker(worker, catalog) if worker.is_foreign else worker.queue,
        is_missing=is_missing,
        silent_s=max(now_s - worker.last_beat_s, 0),
        idle_queues=tuple(worker.redis_queues) if _is_idle(worker, now_s) else (),
        start_failure=worker.reason if worker.state is WorkerState.START_FAILED and not is_missing else None,
    )


def _is_idle(worker: WorkerRecord, now_s: int) -> bool:
    """Return whether a worker could dequeue, but has not lately. Go's workers report neither."""
    return worker.is_ready(now_s) and worker.free_slots > 0 and (worker.last_take_s or 0) < now_s - IDLE_S


def _find_queue_of_go_worker(worker: WorkerRecord, catalog: QueueCatalog) -> str:
    """Return the queue that a Go worker serves, by the Redis queues that it reports; empty unless it is exactly one."""
    names = {resolved.queue.name for name in worker.redis_queues if (resolved := catalog.find(name))}
    return names.pop() if len(names) == 1 else ""
