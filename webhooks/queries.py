"""Read endpoints and deliveries."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import connection
from django.db.models import Count, Exists, Min, OuterRef, Q, Sum, Value
from django.db.models.functions import Concat
from django.utils import timezone

from queues.catalog import AllowedQueues
from queues.status import list_untold_warnings
from runqy.broker.broker import Broker
from runqy.broker.replies import replace_nul
from runqy.errors import WebhookNotFound
from webhooks.models import (
    ALERTS,
    ALERTS_OF_ENDPOINT,
    ENDPOINT_ID_LENGTH,
    IN_FLIGHT,
    QUEUED_EVENTS,
    UNDELIVERED,
    Delivery,
    Endpoint,
)
from webhooks.slots import DueTarget

SCANNED_TARGETS = 1000
LATE_AFTER = timedelta(minutes=5)
FAILING_FOR = timedelta(minutes=15)

# Two look-ups in the index `delivery_due` for each target, however many deliveries it has: a DISTINCT reads them all. A
# target that is no endpoint's is a queue's host, or the alerts of the settings.
_DUE_TARGETS = """
WITH RECURSIVE targets(target, number) AS (
    SELECT MIN(target), 1 FROM webhooks_delivery WHERE delivered_at IS NULL AND abandoned_at IS NULL AND target > %s
    UNION ALL
    SELECT (
        SELECT MIN(target) FROM webhooks_delivery
        WHERE delivered_at IS NULL AND abandoned_at IS NULL AND target > targets.target
    ), number + 1 FROM targets WHERE target IS NOT NULL AND number < %s
)
SELECT target, EXISTS (
    SELECT 1 FROM webhooks_delivery AS due
    WHERE due.delivered_at IS NULL AND due.abandoned_at IS NULL AND due.target = targets.target AND due.due_at <= %s
) AND NOT EXISTS (
    SELECT 1 FROM webhooks_endpoint AS endpoint
    WHERE endpoint.id = REPLACE(targets.target, ':alerts', '') AND NOT is_enabled
) FROM targets WHERE target IS NOT NULL
"""
# In the order of the index `delivery_due`, and joined: with `NOT EXISTS`, or ordered by the key too, PostgreSQL reads
# and sorts all messages that are due for each one that is sent.
_NEXT_OF_TARGET = """
SELECT * FROM (
    SELECT message.id FROM webhooks_delivery AS message
    LEFT JOIN webhooks_delivery AS before_it ON before_it.id = message.after_id
    WHERE message.target = %s AND message.delivered_at IS NULL AND message.abandoned_at IS NULL
        AND message.slot IS NULL AND message.due_at <= %s
        AND (message.after_id IS NULL OR before_it.delivered_at IS NOT NULL OR before_it.abandoned_at IS NOT NULL)
    ORDER BY message.due_at LIMIT %s
) AS of_target
"""
_MAY_BE_SENT = UNDELIVERED & (Q(endpoint__isnull=True) | Q(endpoint__is_enabled=True))


def get_endpoint(endpoint_id: str, *, allowed_queues: AllowedQueues = None) -> Endpoint:
    """Return an endpoint whose queues a key may all use. Raise WebhookNotFound."""
    is_id = len(endpoint_id) == ENDPOINT_ID_LENGTH and endpoint_id.isalnum()
    found = Endpoint.objects.select_related("secret", "headers").filter(pk=endpoint_id).first() if is_id else None
    if found is None or not is_within(found.queues, allowed_queues):
        raise WebhookNotFound(f"No webhook endpoint {endpoint_id[:32]!r}.")
    return found


def list_warnings(broker: Broker, endpoint: Endpoint) -> list[str]:
    """Return why an endpoint may not be told of some tasks; nothing for one that is told of alerts alone."""
    return list_untold_warnings(broker, endpoint.queues) if {*QUEUED_EVENTS}.intersection(endpoint.events) else []


def list_endpoints(*, allowed_queues: AllowedQueues = None) -> list[Endpoint]:
    return [row for row in Endpoint.objects.all() if is_within(row.queues, allowed_queues)]


def is_within(queues: Collection[str], allowed_queues: AllowedQueues) -> bool:
    """Return whether a key may use all these queues; none stands for all queues."""
    return allowed_queues is None or (bool(queues) and allowed_queues.issuperset(queues))


_STATES = {
    "": Q(),
    "failed": Q(abandoned_at__isnull=False, delivered_at=None),
    "pending": UNDELIVERED,
    "delivered": Q(delivered_at__isnull=False),
}
DELIVERY_STATES = tuple(_STATES)
"""The values of `Delivery.state`, and the empty one for all."""


def list_deliveries(
    endpoint: Endpoint, limit: int, before: int | None, *, state: str = ""
) -> tuple[Sequence[Delivery], int | None]:
    """Return a page of an endpoint's deliveries, the newest first, and the id of its last one."""
    position = Q() if before is None else Q(pk__lt=before)
    rows = endpoint.deliveries.filter(position, _STATES[state]).order_by("-pk")
    found = list(rows[: limit + 1])
    return found[:limit], found[limit - 1].pk if len(found) > limit else None


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingDeliveries:
    """What is still to be sent to an endpoint."""

    count: int
    next_at: datetime | None


def find_waiting(endpoint: Endpoint) -> WaitingDeliveries:
    found = endpoint.deliveries.filter(UNDELIVERED).aggregate(count=Count("pk"), next_at=Min("due_at"))
    return WaitingDeliveries(count=found["count"], next_at=found["next_at"])


def count_kept(endpoint: Endpoint) -> int:
    """Return how many messages wait until an endpoint is enabled; 0 for one that is."""
    return 0 if endpoint.is_enabled else endpoint.deliveries.filter(UNDELIVERED).count()


def list_deliveries_of_task(task_id: str, *, limit: int) -> list[Delivery]:
    """Return what was sent about a task, the newest first."""
    of_task = Delivery.objects.filter(task_id=replace_nul(task_id)).select_related("endpoint")
    return list(of_task.order_by("-pk")[:limit])


def list_due_targets(now: datetime, *, after: str = "", limit: int = SCANNED_TARGETS) -> tuple[list[DueTarget], str]:
    """Look at some targets that something is to be sent to, by name; return those that something may be sent to now,
    and the last one if there may be more.
    """
    with connection.cursor() as cursor:
        cursor.execute(_DUE_TARGETS, [after, limit, to_column(now)])
        found = cursor.fetchall()
    due = [target for target, is_due in found if is_due]
    endpoints = Endpoint.objects.in_bulk({get_endpoint_id(target) for target in due}) if due else {}
    return [_describe_target(target, endpoints) for target in due], found[-1][0] if len(found) == limit else ""


def has_undelivered() -> bool:
    """Return whether anything is to be sent, now or later."""
    return Delivery.objects.filter(UNDELIVERED).exists()


def get_endpoint_id(target: str) -> str:
    """Return the id of the endpoint that a target belongs to, or the target if it is no endpoint's."""
    return target.removesuffix(ALERTS_OF_ENDPOINT)


def _describe_target(target: str, endpoints: Mapping[str, Endpoint]) -> DueTarget:
    if endpoint := endpoints.get(get_endpoint_id(target)):
        is_alerts = target != endpoint.pk
        return DueTarget(target=target, maker=_find_maker(endpoint), limit=endpoint.in_flight, is_alerts=is_alerts)
    queue, _, _ = target.partition(" ")  # that of a task's own webhook
    return DueTarget(target=target, maker=queue, limit=IN_FLIGHT, is_alerts=target == ALERTS)


def _find_maker(endpoint: Endpoint) -> str:
    if endpoint.created_by_key_id:
        return f"key {endpoint.created_by_key_id}"
    if endpoint.created_by:
        return f"{endpoint.created_by_kind} {endpoint.created_by}"
    return str(next(iter(endpoint.queues), ""))


def to_column(value: datetime) -> Any:
    """Return a time as statements of this database take it."""
    return Delivery._meta.get_field("due_at").get_db_prep_value(value, connection)


@dataclass(frozen=True, slots=True, kw_only=True)
class UndeliveredCounts:
    """What is still to be sent."""

    due: int
    oldest_due_s: float
    """For how long the first of them has been due; 0 if none is."""
    waiting: int
    """Those that are not due: in flight, to be sent again later, or for a disabled endpoint."""
    dropped: int
    """Those that were dropped, of the endpoints that the server has disabled."""


def count_undelivered(now: datetime) -> UndeliveredCounts:
    is_due = _MAY_BE_SENT & Q(due_at__lte=now)
    found = Delivery.objects.filter(UNDELIVERED).aggregate(
        all=Count("pk"), due=Count("pk", filter=is_due), first=Min("due_at", filter=is_due)
    )
    oldest_s = (now - found["first"]).total_seconds() if found["first"] else 0.0
    dropped = Endpoint.objects.aggregate(sum=Sum("dropped"))["sum"] or 0
    waiting = found["all"] - found["due"]
    return UndeliveredCounts(due=found["due"], oldest_due_s=oldest_s, waiting=waiting, dropped=dropped)


def list_next_ids(wanted: Mapping[str, int], now: datetime) -> list[int]:
    """Return what nobody has claimed of what is to be sent to targets, oldest first, at most so many each. A message
    that follows another one waits for it.
    """
    query, at = " UNION ALL ".join([_NEXT_OF_TARGET] * len(wanted)), to_column(now)
    with connection.cursor() as cursor:
        cursor.execute(query, [each for target, limit in wanted.items() for each in (target, at, limit)])
        return [pk for (pk,) in cursor.fetchall()]


def list_disabled_by_server() -> list[Endpoint]:
    """Return the endpoints that the server disabled, because they refused messages or failed for days."""
    return list(Endpoint.objects.filter(is_enabled=False).exclude(disabled_reason=""))


def list_dropping_endpoints() -> list[Endpoint]:
    """Return the endpoints that the server disabled, and that more was to be kept for than is."""
    return list(Endpoint.objects.filter(is_enabled=False, dropped__gt=0).exclude(disabled_reason=""))


def list_failing_endpoints() -> list[Endpoint]:
    return list(Endpoint.objects.filter(is_enabled=True, failing_since__lte=timezone.now() - FAILING_FOR))


def list_late_endpoints() -> list[Endpoint]:
    """Return the endpoints that accept messages, but not as many as are due."""
    due = Delivery.objects.filter(UNDELIVERED, due_at__lte=timezone.now() - LATE_AFTER)
    of_endpoint = due.filter(target=OuterRef("pk"))
    of_alerts = due.filter(target=Concat(OuterRef("pk"), Value(ALERTS_OF_ENDPOINT)))
    accepting = Endpoint.objects.filter(is_enabled=True, failing_since=None)
    return list(accepting.filter(Exists(of_endpoint) | Exists(of_alerts)))
