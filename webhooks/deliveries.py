"""Claim deliveries, and record what came of each attempt.

Several processes may do so at once: rows change by compare-and-set.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from itertools import count
from typing import Any

import structlog
from django.db import connection, transaction
from django.db.models import Count, F, Q, QuerySet, Sum
from django.utils import timezone

from runqy.broker.replies import replace_nul
from runqy.maintenance.retention import ROWS_AT_ONCE, exclude_paused
from webhooks.models import ALERTS_OF_ENDPOINT, ERROR_MAX_LENGTH, UNDELIVERED, Delivery, Endpoint
from webhooks.queries import get_endpoint_id, list_next_ids, to_column
from webhooks.slots import DueTarget
from webhooks.transport import Outcome

CLAIM = timedelta(seconds=60)
"""How long a claimed delivery is left alone by other processes. Longer than an attempt takes."""
DELAYS_S = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""The specification's schedule, after the first attempt: three days in all."""
JITTER = 0.1
RETRY_AFTER_MAX_S = 86_400
LOCKED_DELAY = timedelta(minutes=1)
GONE = 410
_AWAY = (502, 503, 504)
"""What a proxy responds whose receiver is away."""
FAILS_FOR = timedelta(days=5)
KEPT_FOR = timedelta(days=7)
KEPT_MAX, KEPT_MAX_BYTES = 100_000, 256 * 1024 * 1024
"""What an endpoint that the server disabled keeps at most, in number and bytes of messages."""

_TRY_LOCK = """
SELECT target FROM unnest(%s::text[]) AS target
WHERE pg_try_advisory_xact_lock(hashtext('runqy webhooks'), hashtext(target))
"""
_CLAIM = "UPDATE webhooks_delivery SET due_at = %s, slot = %s WHERE id = %s"
_RECORD = """
UPDATE webhooks_delivery SET delivered_at = %s, abandoned_at = %s, due_at = %s, slot = NULL, attempts = %s,
    sent_at = %s, status = %s, duration_ms = %s, response = %s, error = %s
WHERE id = %s
"""

log = structlog.get_logger()


def claim_due(wanted: Mapping[DueTarget, int], now: datetime) -> list[Delivery]:
    """Reserve for this process what is due to targets, at most so many each; first what a process that was killed had
    claimed. Return what was claimed, with its endpoint.

    No target has more in flight than its limit, in all processes. What another process is claiming for is left to it.
    """
    with transaction.atomic():
        limits = _lock_targets({each.target: each for each in wanted})
        in_use = _list_in_use(limits)
        next_of, left = dict[str, int](), list[int]()
        for name, target in limits.items():
            free = target.limit - sum(len(in_use[each]) for each in _share_limit(name))
            expired = [pk for pk, due_at in in_use[name].values() if due_at <= now]
            left += expired[: wanted[target]]
            if (number := min(free, wanted[target] - len(expired))) > 0:
                next_of[name] = number
        ids = left + (list_next_ids(next_of, now) if next_of else [])
        claimed = _lock_due(ids, now)
        for delivery in claimed:
            if delivery.slot is None:
                used = in_use[delivery.target]
                delivery.slot = next(slot for slot in count(0) if slot not in used)
                used[delivery.slot] = (delivery.pk, now + CLAIM)
            delivery.due_at = now + CLAIM
        _execute_each(_CLAIM, [(to_column(each.due_at), each.slot, each.pk) for each in claimed])
    return claimed


def _lock_targets(targets: Mapping[str, DueTarget]) -> Mapping[str, DueTarget]:
    """Return those that no other process claims for at this moment, in a transaction that is open.

    On SQLite transactions follow each other. On PostgreSQL nobody waits: two processes that gave slots of several
    targets in different orders would wait for each other.
    """
    if connection.vendor != "postgresql" or not targets:
        return targets
    with connection.cursor() as cursor:
        cursor.execute(_TRY_LOCK, [[*{get_endpoint_id(name) for name in targets}]])
        locked = {name for (name,) in cursor.fetchall()}
    return {name: each for name, each in targets.items() if get_endpoint_id(name) in locked}


def _share_limit(target: str) -> tuple[str, ...]:
    """Return the targets of the same endpoint."""
    endpoint_id = get_endpoint_id(target)
    return (endpoint_id, f"{endpoint_id}{ALERTS_OF_ENDPOINT}")


def _list_in_use(targets: Iterable[str]) -> dict[str, dict[int, tuple[int, datetime]]]:
    """Return the slots of targets that are in use: which delivery has it, and when it is given to another process."""
    in_use = defaultdict[str, dict[int, tuple[int, datetime]]](dict)
    names = {name for target in targets for name in _share_limit(target)}
    rows = Delivery.objects.filter(target__in=names, slot__isnull=False).order_by()
    for target, slot, pk, due_at in rows.values_list("target", "slot", "pk", "due_at"):
        in_use[target][slot or 0] = (pk, due_at)
    return in_use


def _lock_due(ids: Sequence[int], now: datetime) -> list[Delivery]:
    """Return deliveries, with their endpoints, that nobody else has locked and that may still be sent."""
    if not ids:
        return []
    # A message that follows one of them may be added meanwhile: a foreign key needs the key alone.
    rows = Delivery.objects.filter(UNDELIVERED, pk__in=ids, due_at__lte=now)
    found = rows.select_for_update(skip_locked=True, no_key=True).in_bulk()
    # Of several messages the endpoint is read, and later its secrets decrypted, once.
    enabled = Endpoint.objects.select_related("secret", "headers").filter(is_enabled=True)
    endpoints = enabled.in_bulk({each.endpoint_id for each in found.values() if each.endpoint_id})
    deliveries = [found[pk] for pk in ids if pk in found and found[pk].endpoint_id in {None, *endpoints}]
    for each in deliveries:
        if each.endpoint_id:
            each.endpoint = endpoints[each.endpoint_id]
    return deliveries


def _execute_each(statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
    if rows:
        with connection.cursor() as cursor:
            cursor.executemany(statement, rows)


def record_outcomes(ended: Sequence[tuple[Delivery, Outcome]], now: datetime) -> tuple[set[int], set[int]]:
    """Record what came of claimed deliveries; return which were, and which could not be because their rows are locked.

    Others are ignored: another process has claimed them since, or they were withdrawn. What was not accepted is sent
    again after the delays of the specification.
    """
    claims = {delivery.pk: (delivery.due_at, delivery.slot) for delivery, _ in ended}
    rows = Delivery.objects.filter(UNDELIVERED, pk__in=claims).order_by("pk")
    with transaction.atomic():
        # Without waiting: whoever has locked some of these may wait for others, and the rest would wait with them.
        free = rows.select_for_update(skip_locked=True, no_key=True).values_list("pk", "due_at", "slot")
        recorded = {pk for pk, *claim in free if claims[pk] == tuple(claim)}
        _execute_each(_RECORD, [_row(*each, now) for each in ended if each[0].pk in recorded])
    for delivery, outcome in ended:
        if delivery.pk in recorded and not outcome.is_accepted:
            log.warning("webhook_failed", target=delivery.target, message_id=delivery.message_id, error=outcome.error)
    if len(recorded) == len(claims):
        return recorded, set()
    others = rows.filter(pk__in=claims.keys() - recorded).values_list("pk", "due_at", "slot")
    return recorded, {pk for pk, *claim in others if claims[pk] == tuple(claim)}


def _row(delivery: Delivery, outcome: Outcome, now: datetime) -> tuple[Any, ...]:
    """Return the parameters of _RECORD."""
    is_last = delivery.attempts >= len(DELAYS_S) or outcome.status == GONE
    due_at = delivery.due_at
    if not outcome.is_accepted and not is_last:
        due_at = now + _delay(delivery.attempts, outcome.retry_after, now)
    at = to_column(now)
    return (
        *(at if outcome.is_accepted else None, at if is_last and not outcome.is_accepted else None, to_column(due_at)),
        *(delivery.attempts + 1, at, outcome.status, outcome.duration_ms),
        replace_nul(outcome.response.decode(errors="replace")),
        replace_nul(outcome.error)[:ERROR_MAX_LENGTH],
        delivery.pk,
    )


def record_refused(delivery: Delivery, reason: str, now: datetime) -> None:
    """Give up a claimed delivery that may not be sent."""
    _claimed(delivery).update(abandoned_at=now, slot=None, error=reason[:ERROR_MAX_LENGTH])
    log.warning("webhook_refused", target=delivery.target, message_id=delivery.message_id, reason=reason)


def release(delivery: Delivery, reason: str, now: datetime) -> None:
    """Leave a claimed delivery due that cannot be signed now. This is no attempt."""
    _claimed(delivery).update(due_at=now + LOCKED_DELAY, slot=None, error=reason[:ERROR_MAX_LENGTH])


def retry_at_once(target: str, now: datetime) -> None:
    """Make due what a target got no response to, or only one of a proxy, now that it is back.

    The last attempt stays a day later, also of a message that takes its receiver down each time, and a longer
    `Retry-After` is kept.
    """
    was_away = Q(status=None) | Q(status__in=_AWAY)
    waiting = Delivery.objects.filter(UNDELIVERED, was_away, target=target, slot=None, due_at__gt=now)
    for attempts, delay_s in enumerate(DELAYS_S[:-1], 1):
        scheduled = F("sent_at") + timedelta(seconds=delay_s * (1 + JITTER))
        waiting.filter(attempts=attempts, due_at__lte=scheduled).update(due_at=now)


def withdraw(deliveries: QuerySet[Delivery], reason: str) -> int:
    """Give up deliveries that are still to be sent; return how many. What comes of one that is in flight is not
    recorded.
    """
    columns = {"abandoned_at": timezone.now(), "slot": None, "error": reason[:ERROR_MAX_LENGTH]}
    return deliveries.filter(UNDELIVERED).update(**columns)


def resend(deliveries: QuerySet[Delivery], now: datetime) -> int:
    """Send deliveries again, with the same ids, beginning the schedule anew; return how many. Those that are still to
    be sent are sent now.
    """
    columns = {"due_at": now, "attempts": 0, "delivered_at": None, "abandoned_at": None}
    return deliveries.filter(slot__isnull=True).update(**columns)


def find_old_deliveries() -> QuerySet[Delivery]:
    """Return deliveries that are not kept. Those that are due to an enabled endpoint are.

    An endpoint that accepts nothing is disabled. Nothing else ends what waits for the host of a task's own webhook.
    """
    old = Delivery.objects.filter(created_at__lt=timezone.now() - KEPT_FOR)
    return old.exclude(UNDELIVERED, endpoint__is_enabled=True).order_by("created_at")


def find_excess_deliveries() -> QuerySet[Delivery]:
    """Return the oldest of what an endpoint that the server disabled keeps, beyond KEPT_MAX and KEPT_MAX_BYTES."""
    disabled = Endpoint.objects.filter(is_enabled=False).exclude(disabled_reason="")
    excess: list[int] = []
    for endpoint_id in list(disabled.values_list("pk", flat=True)):
        waiting = Delivery.objects.filter(UNDELIVERED, endpoint_id=endpoint_id).order_by("pk")
        totals = waiting.aggregate(number=Count("pk"), size=Sum("body_bytes"))
        number, size = totals["number"], totals["size"] or 0
        if number > KEPT_MAX or size > KEPT_MAX_BYTES:
            for pk, body_bytes in exclude_paused(waiting).values_list("pk", "body_bytes")[:ROWS_AT_ONCE]:
                if number <= KEPT_MAX and size <= KEPT_MAX_BYTES:
                    break
                excess.append(pk)
                number, size = number - 1, size - body_bytes
        if len(excess) >= ROWS_AT_ONCE:
            break
    return Delivery.objects.filter(pk__in=excess[:ROWS_AT_ONCE])


def drop_deliveries(deliveries: QuerySet[Delivery]) -> None:
    """Delete deliveries, and count those that an endpoint kept because the server disabled it."""
    kept = deliveries.filter(UNDELIVERED).exclude(endpoint__disabled_reason="").exclude(endpoint=None)
    dropped = Counter(kept.order_by().values_list("endpoint_id", flat=True))
    deliveries.delete()
    for endpoint_id, number in dropped.items():
        Endpoint.objects.filter(pk=endpoint_id, is_enabled=False).update(dropped=F("dropped") + number)


def _claimed(delivery: Delivery) -> QuerySet[Delivery]:
    return Delivery.objects.filter(UNDELIVERED, pk=delivery.pk, due_at=delivery.due_at, slot=delivery.slot)


def _delay(attempts: int, retry_after: str, now: datetime) -> timedelta:
    delay_s = DELAYS_S[attempts] * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 (jitter)
    return timedelta(seconds=max(delay_s, _parse_retry_after(retry_after, now)))


def _parse_retry_after(text: str, now: datetime) -> float:
    """Return the seconds in a header of seconds or a date; 0 for none and for one that is not understood."""
    if text.isascii() and text.isdigit():
        return min(int(text[:9]), RETRY_AFTER_MAX_S)
    try:
        until = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return 0
    seconds = (until.replace(tzinfo=until.tzinfo or UTC) - now).total_seconds()
    return min(max(seconds, 0), RETRY_AFTER_MAX_S)
