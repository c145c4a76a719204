"""Observe the installation for the rules, and read alerts."""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial
from operator import attrgetter
from typing import Any

from django.db.models import Case, Count, Exists, F, OuterRef, Q, QuerySet, Value, When
from django.utils import timezone

from alerts.conditions import GROWTH_WINDOW_MIN, count, shorten
from alerts.kinds import EXPLAINS, AlertKind, AlertLevel, consequences_of
from alerts.models import Alert, AlertRule, KnownMaster, QueueSnooze
from alerts.observations import (
    IDLE_S,
    Observation,
    Problem,
    QueueObservation,
    ReplacingWorker,
    WorkerObservation,
)
from alerts.rules import RULES, GetSettings, RuleSettings, failures, observation_key, subject_key
from batches.queries import describe_abandoned, describe_problem, list_abandoned_batches, list_incomplete_batches
from queues.catalog import AllowedQueues, QueueCatalog
from queues.definitions import QueueDefinition
from queues.queries import get_fresh_catalog, list_vault_errors
from queues.releases import list_reverted
from runqy.accounts.queries import find_keys_of_inactive_users
from runqy.broker.broker import Broker
from runqy.broker.health import check_nodes
from runqy.broker.queues.stats import QueueCounts, count_tasks
from runqy.broker.workers.heartbeats import list_worker_records
from runqy.broker.workers.records import Replacement, WorkerRecord, WorkerState
from runqy.configuration.publishing import compare_configuration
from runqy.maintenance.failed_rows import list_failed_rows
from runqy.maintenance.models import FailedRow
from schedules.queries import count_unknown_fires, list_problems
from tasks.bulk_actions import count_with_unknown_copies
from tasks.history.stats import StatsPoint, get_stats_by_queue
from vaults.queries import find_key_error
from webhooks.deliveries import KEPT_FOR as DELIVERIES_KEPT_FOR
from webhooks.queries import (
    list_disabled_by_server,
    list_dropping_endpoints,
    list_failing_endpoints,
    list_late_endpoints,
)

NOT_SILENCED = Q(acknowledged_at__isnull=True, snoozed_until__isnull=True)
"""Alerts that are neither acknowledged nor snoozed. When a snooze ends, maintenance removes its time."""


FAILED_ROWS_MAX = 100
"""How many rows that fail have an alert: a bug may concern all."""
AFTERMATH = timedelta(minutes=5)
"""For how long after its cause a consequence is not sent: what a worker left behind takes a while to drain."""


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


def exclude_consequences(alerts: QuerySet[Alert], causes: QuerySet[Alert] | None = None) -> QuerySet[Alert]:
    """Leave out alerts that one of these explains for the same queue; by default one that is open."""
    of_queue = (filter_alerts(AlertState.OPEN) if causes is None else causes).filter(queue=OuterRef("queue"))
    explained = Q()
    for kind in {kind for kinds in EXPLAINS.values() for kind in kinds}:
        explaining = [cause.value for cause, kinds in EXPLAINS.items() if kind in kinds]
        explained |= Q(kind=kind.value) & Q(Exists(of_queue.filter(kind__in=explaining)))
    return alerts.exclude(~Q(queue="") & explained)


def filter_told_causes(now: datetime) -> QuerySet[Alert]:
    """Return the alerts that keep their consequences from being sent: they are open, or were just now, and were sent,
    or a user silenced them, or another such alert explains them.
    """
    # Deliveries are deleted before an alert that stays open.
    is_told = (
        ~NOT_SILENCED | Q(is_withheld=True) | Q(deliveries__isnull=False) | Q(opened_at__lt=now - DELIVERIES_KEPT_FOR)
    )
    lasts = Q(resolved_at__isnull=True) | Q(resolved_at__gt=now - AFTERMATH)
    return filter_alerts(AlertState.ALL).filter(is_told, lasts)


BY_QUEUE = ("urgency", "queue", "is_silenced", "level", "-pk")
"""The order of `add_urgency`: the most urgent queue first, and within it what is acknowledged or snoozed last."""


def add_urgency(alerts: QuerySet[Alert]) -> QuerySet[Alert]:
    """Add to open alerts what they are ordered by."""
    unsilenced = filter_alerts(AlertState.OPEN).filter(NOT_SILENCED, queue=OuterRef("queue"))
    urgency = Case(
        When(Exists(unsilenced.filter(level=AlertLevel.CRITICAL.value)), then=Value(0)),
        When(Exists(unsilenced), then=Value(1)),
        default=Value(2),
    )
    return alerts.annotate(urgency=urgency, is_silenced=Case(When(NOT_SILENCED, then=Value(0)), default=Value(1)))


@dataclass(frozen=True, slots=True, kw_only=True)
class RelatedAlerts:
    """The open alerts of the same queue that explain an open alert, and that it explains."""

    causes: list[Alert]
    """Without their causes."""
    consequences: list[Alert]
    """With their consequences."""


def list_related(alerts: Sequence[Alert]) -> dict[int, RelatedAlerts]:
    """Return what is related to alerts by their ids, in one query."""
    by_queue: dict[str, list[Alert]] = defaultdict(list)
    for alert in filter_alerts(AlertState.OPEN).filter(queue__in={alert.queue for alert in alerts if alert.queue}):
        by_queue[alert.queue].append(alert)
    found = {}
    for alert in alerts:
        others = by_queue.get(alert.queue, ()) if alert.resolved_at is None else ()
        kinds = consequences_of(AlertKind(alert.kind))
        found[alert.pk] = RelatedAlerts(
            causes=[each for each in others if alert.kind in EXPLAINS.get(AlertKind(each.kind), ())],
            consequences=[each for each in others if each.kind in kinds],
        )
    return found


def list_unresolved(*, limit: int) -> list[Alert]:
    """Return unresolved alerts that are not silenced and no consequence of others: critical ones first, then open ones,
    then the latest.

    Those that are not open are conditions that have not lasted long enough yet.
    """
    unresolved = exclude_consequences(Alert.objects.filter(NOT_SILENCED, resolved_at__isnull=True))
    return list(unresolved.order_by("level", F("opened_at").desc(nulls_last=True), "-since", "pk")[:limit])


def count_open() -> tuple[int, int]:
    """Return how many causes are open that are not silenced, and how many that are."""
    causes = exclude_consequences(filter_alerts(AlertState.OPEN))
    counts = causes.aggregate(all=Count("pk"), unsilenced=Count("pk", filter=NOT_SILENCED))
    return counts["unsilenced"], counts["all"] - counts["unsilenced"]


def find_snooze(queue: str) -> QueueSnooze | None:
    """Return the snooze of a queue, if it is not over."""
    return QueueSnooze.objects.filter(queue=queue, until__gt=timezone.now()).first()


def load_rule_settings() -> GetSettings:
    """Read the settings of all rules in one query."""
    stored = {(row.kind, row.queue.name if row.queue else ""): row for row in AlertRule.objects.select_related("queue")}

    def get_settings(kind: AlertKind, queue: str) -> RuleSettings:
        row = stored.get((kind.value, queue)) or stored.get((kind.value, ""))
        return row.settings if row else RULES[kind].defaults

    return get_settings


def observe(broker: Broker) -> Observation:
    """Read what the rules need. Raise BrokerUnavailable, ConfigurationUnavailable.

    The number of round trips and queries does not depend on the number of queues.
    """
    now, now_s = timezone.now(), broker.now_s()
    observed_queues: list[QueueObservation] = []
    observed_workers: list[WorkerObservation] = []

    def observe_queues(queues: Sequence[QueueDefinition]) -> None:
        observed_queues.extend(_observe_queues(queues, catalog, counts, workers, minutes, now_s=now_s))

    def observe_workers(records: Sequence[WorkerRecord]) -> None:
        observed_workers.extend([_observe_worker(worker, catalog, now_s) for worker in records])

    workers, catalog = list_worker_records(broker), get_fresh_catalog()
    counts = _count_tasks(broker, catalog)
    nodes = broker.run(check_nodes(broker))
    minutes = _read_minutes(now, paused=[name for name, count in counts.items() if count.is_paused])
    failures.handle(
        catalog.definitions, observe_queues, describe=lambda each: (observation_key(each.name), each.name, each.name)
    )
    failures.handle(
        workers,
        observe_workers,
        describe=lambda each: (observation_key(each.worker_id), each.worker_id, each.queue),
    )
    return Observation(
        queues=observed_queues,
        workers=observed_workers,
        reported=_list_reported(now),
        history_dropped={
            queue: dropped for queue, points in minutes.items() if (dropped := sum(point.dropped for point in points))
        },
        memory_use=max(node.memory.use for node in nodes),
        masters=[node for node in nodes if node.replication_id],
        known_masters=set(KnownMaster.objects.values_list("replication_id", flat=True)),
        now=now,
    )


def _list_reported(now: datetime) -> dict[AlertKind, list[Problem]]:
    """Return the problems that other apps know of."""
    reported: dict[AlertKind, list[Problem]] = {}
    for kind, find in _REPORTED_OF_INSTALLATION.items():
        if failures.is_paused(kind.value):
            continue
        with failures.isolate(kind.value):
            if message := find(now):
                reported[kind] = [Problem("", message)]
    for kind, (list_rows, get_subject, to_problem) in _REPORTED_OF_ROWS.items():
        if failures.is_paused(kind.value):
            continue
        with failures.isolate(kind.value):
            problems = reported.setdefault(kind, [])
            failures.handle(
                list_rows(),
                partial(_add_problems, problems, to_problem),
                describe=partial(_describe_row, kind, get_subject),
            )
    return reported


def _add_problems(problems: list[Problem], to_problem: Callable[[Any], Problem], rows: Sequence[Any]) -> None:
    problems += [to_problem(row) for row in rows]


def _describe_row(kind: AlertKind, get_subject: Callable[[Any], str], row: Any) -> tuple[str, str, str]:
    return subject_key(kind, get_subject(row)), f"{kind} of {row}", ""


def _describe_unknown(now: datetime) -> str:
    unknown = {"schedule fire": count_unknown_fires(now), "bulk action": count_with_unknown_copies(now)}
    enqueues = ", ".join(count(number, noun) for noun, number in unknown.items() if number)
    return enqueues and f"It is unknown whether tasks were enqueued: {enqueues}. Enqueue what is missing."


def _describe_failed_row(row: FailedRow) -> Problem:
    message = (
        f"Maintenance cannot handle the {row.kind} {row.name} ({row.error}). It is left out until "
        f"{row.paused_until:%H:%M} UTC, and then tried again; the log has the error (row_failed)."
    )
    return Problem(f"{row.kind} {row.key}", message, row.queue)


_REPORTED_OF_INSTALLATION: Mapping[AlertKind, Callable[[datetime], str]] = {
    AlertKind.CONFIGURATION_NOT_PUBLISHED: lambda _: compare_configuration().detail,
    AlertKind.VAULT_UNREADABLE: lambda _: find_key_error(),
    AlertKind.INACTIVE_KEY_CREATOR: lambda _: find_keys_of_inactive_users(),
    AlertKind.ENQUEUE_UNKNOWN: _describe_unknown,
}
_REPORTED_OF_ROWS: Mapping[
    AlertKind, tuple[Callable[[], Sequence[Any]], Callable[[Any], str], Callable[[Any], Problem]]
] = {
    AlertKind.FIRE_MISSED: (
        list_problems,
        attrgetter("name"),
        lambda row: Problem(
            row.name, f"The schedule {row.name} enqueued nothing: {shorten(row.problem)}", row.parent_queue
        ),
    ),
    AlertKind.WEBHOOK_LATE: (
        list_late_endpoints,
        attrgetter("pk"),
        lambda row: Problem(
            row.pk,
            f"Messages to the webhook endpoint {str(row)[:200]} have been due for more than 5 minutes, although it "
            f"accepts others: it gets {row.in_flight} at once.",
        ),
    ),
    AlertKind.WEBHOOK_FAILING: (
        list_failing_endpoints,
        attrgetter("pk"),
        lambda row: Problem(
            row.pk,
            f"All messages to the webhook endpoint {str(row)[:200]} have failed since "
            f"{row.failing_since:%Y-%m-%d %H:%M} UTC.",
        ),
    ),
    AlertKind.WEBHOOK_DISABLED: (
        list_disabled_by_server,
        attrgetter("pk"),
        lambda row: Problem(row.pk, f"The webhook endpoint {str(row)[:200]} is disabled. {row.disabled_reason}"),
    ),
    AlertKind.WEBHOOK_DROPPED: (
        list_dropping_endpoints,
        attrgetter("pk"),
        lambda row: Problem(
            row.pk,
            f"Messages to the disabled webhook endpoint {str(row)[:200]} were dropped: {row.dropped:,}.",
        ),
    ),
    AlertKind.RELEASE_REVERTED: (
        list_reverted,
        attrgetter("queue.name"),
        lambda row: Problem(
            row.queue.name,
            f"Release {row.number} of {row.queue.name} was reverted. {shorten(row.reason)}",
            row.queue.name,
        ),
    ),
    AlertKind.BATCH_ABANDONED: (
        list_abandoned_batches,
        attrgetter("pk"),
        lambda row: Problem(row.pk, describe_abandoned(row)),
    ),
    AlertKind.BATCH_INCOMPLETE: (
        list_incomplete_batches,
        attrgetter("pk"),
        lambda row: Problem(row.pk, describe_problem(row)),
    ),
    AlertKind.ROW_FAILED: (
        partial(list_failed_rows, limit=FAILED_ROWS_MAX),
        lambda row: f"{row.kind} {row.key}",
        _describe_failed_row,
    ),
}


def _count_tasks(broker: Broker, catalog: QueueCatalog) -> dict[str, QueueCounts]:
    names = catalog.redis_queues()
    return {each.queue: each for each in broker.run(count_tasks(names, now_ns=broker.now_ns()))} if names else {}


def _observe_queues(  # noqa: PLR0913 (each is a part)
    queues: Sequence[QueueDefinition],
    catalog: QueueCatalog,
    counts: Mapping[str, QueueCounts],
    workers: Sequence[WorkerRecord],
    minutes: Mapping[str, Sequence[StatsPoint]],
    *,
    now_s: int,
) -> list[QueueObservation]:
    """Join the parts by queue; `counts` are by Redis queue."""
    vault_errors = list_vault_errors([queue.name for queue in queues])
    served = {name for worker in workers if worker.is_ready(now_s) for name in worker.redis_queues}
    dying: dict[str, list[WorkerRecord]] = defaultdict(list)
    replacing: dict[str, list[ReplacingWorker]] = defaultdict(list)
    for worker in workers:
        if worker.shared_deaths > 0:
            dying[worker.queue].append(worker)
        if worker.replacement and not worker.is_stale(now_s):
            replacing[worker.queue].append(_observe_replacement(worker))
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
            replacing=replacing.get(queue.name, ()),
        )
        for queue in queues
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


def _observe_replacement(worker: WorkerRecord) -> ReplacingWorker:
    has_turn = worker.replacement is Replacement.RUNNING
    has_problem = has_turn and worker.state in (WorkerState.READY, WorkerState.START_FAILED)
    return ReplacingWorker(
        worker_id=worker.worker_id,
        has_turn=has_turn,
        lasts_s=worker.replacement_s,
        problem=worker.reason if has_problem else "",  # otherwise it says for how long they have loaded
    )


def _is_idle(worker: WorkerRecord, now_s: int) -> bool:
    """Return whether a worker could dequeue, but has not lately. Go's workers report neither."""
    return worker.is_ready(now_s) and worker.free_slots > 0 and (worker.last_take_s or 0) < now_s - IDLE_S


def _find_queue_of_go_worker(worker: WorkerRecord, catalog: QueueCatalog) -> str:
    """Return the queue that a Go worker serves, by the Redis queues that it reports; empty unless it is exactly one."""
    names = {resolved.queue.name for name in worker.redis_queues if (resolved := catalog.find(name))}
    return names.pop() if len(names) == 1 else ""
