"""Read endpoints and deliveries."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db import connection
from django.db.models import Count, Min, Q, QuerySet

from queues.catalog import AllowedQueues
from runqy.broker.replies import replace_nul
from runqy.errors import WebhookNotFound
from webhooks.models import ENDPOINT_ID_LENGTH, UNDELIVERED, Delivery, Endpoint

# Two look-ups in the index `delivery_due` for each target, however many deliveries it has: a DISTINCT reads them all. A
# target that is no endpoint's id is a queue's host, or the alerts.
_DUE_TARGETS = """
WITH RECURSIVE targets(target) AS (
    SELECT MIN(target) FROM webhooks_delivery WHERE delivered_at IS NULL AND abandoned_at IS NULL
    UNION ALL
    SELECT (
        SELECT MIN(target) FROM webhooks_delivery
        WHERE delivered_at IS NULL AND abandoned_at IS NULL AND target > targets.target
    ) FROM targets WHERE target IS NOT NULL
)
SELECT target FROM targets
WHERE EXISTS (
    SELECT 1 FROM webhooks_delivery AS due
    WHERE due.delivered_at IS NULL AND due.abandoned_at IS NULL AND due.target = targets.target AND due.due_at <= %s
) AND NOT EXISTS (SELECT 1 FROM webhooks_endpoint AS endpoint WHERE endpoint.id = targets.target AND NOT is_enabled)
"""
_MAY_BE_SENT = UNDELIVERED & (Q(endpoint__isnull=True) | Q(endpoint__is_enabled=True))


def get_endpoint(endpoint_id: str, *, allowed_queues: AllowedQueues = None) -> Endpoint:
    """Return an endpoint whose queues a key may all use. Raise WebhookNotFound."""
    is_id = len(endpoint_id) == ENDPOINT_ID_LENGTH and endpoint_id.isalnum()
    found = Endpoint.objects.select_related("secret", "headers").filter(pk=endpoint_id).first() if is_id else None
    if found is None or not is_within(found.queues, allowed_queues):
        raise WebhookNotFound(f"No webhook endpoint {endpoint_id[:32]!r}.")
    return found


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


def list_deliveries_of_task(task_id: str, *, limit: int) -> list[Delivery]:
    """Return what was sent about a task, the newest first."""
    of_task = Delivery.objects.filter(task_id=replace_nul(task_id)).select_related("endpoint")
    return list(of_task.order_by("-pk")[:limit])


def list_due_targets(now: datetime) -> list[str]:
    """Return the targets that something may be sent to now."""
    due_at = Delivery._meta.get_field("due_at").get_db_prep_value(now, connection)
    with connection.cursor() as cursor:
        cursor.execute(_DUE_TARGETS, [due_at])
        return [target for (target,) in cursor.fetchall()]


@dataclass(frozen=True, slots=True, kw_only=True)
class UndeliveredCounts:
    """What is still to be sent."""

    due: int
    oldest_due_s: float
    """For how long the first of them has been due; 0 if none is."""
    waiting: int
    """Those that are not due: in flight, to be sent again later, or for a disabled endpoint."""


def count_undelivered(now: datetime) -> UndeliveredCounts:
    is_due = _MAY_BE_SENT & Q(due_at__lte=now)
    found = Delivery.objects.filter(UNDELIVERED).aggregate(
        all=Count("pk"), due=Count("pk", filter=is_due), first=Min("due_at", filter=is_due)
    )
    oldest_s = (now - found["first"]).total_seconds() if found["first"] else 0.0
    return UndeliveredCounts(due=found["due"], oldest_due_s=oldest_s, waiting=found["all"] - found["due"])


def list_due(target: str, now: datetime, *, limit: int) -> QuerySet[Delivery]:
    """Return what nobody has claimed of what is to be sent to a target, oldest first. A message that follows another
    one waits for it.
    """
    # In the order of the index `delivery_due`, and joined: with `NOT EXISTS`, or ordered by the key too, PostgreSQL
    # reads and sorts all messages that are due for each one that is sent.
    is_first = Q(after=None) | Q(after__delivered_at__isnull=False) | Q(after__abandoned_at__isnull=False)
    due = Delivery.objects.filter(_MAY_BE_SENT, is_first, target=target, due_at__lte=now, slot=None)
    return _with_endpoints(due).order_by("due_at")[:limit]


def list_slots(target: str) -> dict[int | None, datetime]:
    """Return the slots of a target that are in use, and when each is given to another process."""
    # In columns, since building rows with what they are related to costs more than sending a message.
    return dict(Delivery.objects.filter(target=target, slot__isnull=False).order_by().values_list("slot", "due_at"))


def list_left(target: str, now: datetime) -> QuerySet[Delivery]:
    """Return what a process that was killed had claimed, and whose claim is over."""
    return _with_endpoints(Delivery.objects.filter(target=target, slot__isnull=False, due_at__lte=now))


def _with_endpoints(deliveries: QuerySet[Delivery]) -> QuerySet[Delivery]:
    return deliveries.select_related("endpoint__secret", "endpoint__headers")


def list_disabled_by_server() -> list[Endpoint]:
    """Return the endpoints that the server disabled, because they refused messages or failed for days."""
    return list(Endpoint.objects.filter(is_enabled=False).exclude(disabled_reason=""))
