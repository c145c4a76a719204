"""Claim deliveries, and record what came of each attempt.

Several processes may do so at once: rows change by compare-and-set.
"""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import structlog
from django.db import IntegrityError, transaction
from django.db.models import F, Q, QuerySet
from django.utils import timezone

from runqy.broker.replies import replace_nul
from webhooks.models import ERROR_MAX_LENGTH, UNDELIVERED, Delivery
from webhooks.transport import Outcome

CLAIM = timedelta(seconds=60)
"""How long a claimed delivery is left alone by other processes. Longer than an attempt takes."""
IN_FLIGHT_MAX = 4
"""How many messages are sent to a target at once."""
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
PRUNE_BATCH = 1000

log = structlog.get_logger()


def claim_all(deliveries: Sequence[Delivery], now: datetime, used_slots: set[int]) -> list[Delivery]:
    """Claim several deliveries of a target in one transaction; return those that were claimed."""
    with transaction.atomic():
        # Not those that another process has claimed since they were read, and may be about to record.
        free = _lock(deliveries, Q(due_at__lte=now))
        return [each for each in deliveries if each.pk in free and claim(each, now, used_slots)]


def record_outcomes(ended: Sequence[tuple[Delivery, Outcome]], now: datetime) -> set[int]:
    """Record what came of several deliveries as `record_outcome` does, in one transaction; return their keys."""
    with transaction.atomic():
        free = _lock([delivery for delivery, _ in ended], UNDELIVERED)
        recorded = {each.pk for each, outcome in ended if each.pk in free and record_outcome(each, outcome, now)}
    # One by one: whoever has locked these may wait for the others.
    return recorded | {each.pk for each, outcome in ended if each.pk not in free and record_outcome(each, outcome, now)}


def _lock(deliveries: Sequence[Delivery], condition: Q) -> set[int]:
    """Lock deliveries in an open transaction, and return the keys of those that nobody else has locked.

    Without waiting for rows, transactions that lock several never wait for each other. For the slots of a target they
    wait in the order of their numbers.
    """
    rows = Delivery.objects.filter(condition, pk__in=[each.pk for each in deliveries]).order_by("pk")
    # A message that follows one of them may be added meanwhile: a foreign key needs the key alone.
    return set(rows.select_for_update(skip_locked=True, no_key=True).values_list("pk", flat=True))


def claim(delivery: Delivery, now: datetime, used_slots: set[int]) -> bool:
    """Reserve an attempt for this process, in a slot of the target; return False if there is none, or another process
    was first.
    """
    slot = delivery.slot if delivery.slot is not None else _find_free(used_slots)
    if slot is None:
        return False
    free = Delivery.objects.filter(UNDELIVERED, pk=delivery.pk, due_at=delivery.due_at)
    try:
        with transaction.atomic():  # a part of the caller's
            claimed = free.update(due_at=now + CLAIM, slot=slot)
    except IntegrityError:  # another process took the slot
        claimed = 0
    used_slots.add(slot)
    delivery.due_at, delivery.slot = now + CLAIM, slot
    return bool(claimed)


def _find_free(used_slots: set[int]) -> int | None:
    return next((slot for slot in range(IN_FLIGHT_MAX) if slot not in used_slots), None)


def record_outcome(delivery: Delivery, outcome: Outcome, now: datetime) -> bool:
    """Record what came of a claimed delivery, unless another process has claimed it since; return whether it was.

    If it was not accepted, it is sent again after the delays of the specification.
    """
    columns: dict[str, Any] = {
        "attempts": delivery.attempts + 1,
        "slot": None,
        "sent_at": now,
        "status": outcome.status,
        "duration_ms": outcome.duration_ms,
        "response": replace_nul(outcome.response.decode(errors="replace")),
        "error": replace_nul(outcome.error)[:ERROR_MAX_LENGTH],
    }
    if outcome.is_accepted:
        columns["delivered_at"] = now
    elif delivery.attempts >= len(DELAYS_S) or outcome.status == GONE:
        columns["abandoned_at"] = now
    else:
        columns["due_at"] = now + _delay(delivery.attempts, outcome.retry_after, now)
    is_recorded = bool(_claimed(delivery).update(**columns))
    if is_recorded and not outcome.is_accepted:
        log.warning("webhook_failed", target=delivery.target, message_id=delivery.message_id, error=outcome.error)
    return is_recorded


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


def withdraw(deliveries: QuerySet[Delivery], reason: str) -> None:
    """Give up deliveries that are still to be sent. What comes of one that is in flight is not recorded."""
    ids = list(deliveries.filter(UNDELIVERED).values_list("pk", flat=True))
    columns = {"abandoned_at": timezone.now(), "slot": None, "error": reason[:ERROR_MAX_LENGTH]}
    Delivery.objects.filter(UNDELIVERED, pk__in=ids).update(**columns)


def resend(deliveries: QuerySet[Delivery], now: datetime) -> int:
    """Send deliveries again, with the same ids, beginning the schedule anew; return how many. Those that are still to
    be sent are sent now.
    """
    columns = {"due_at": now, "attempts": 0, "delivered_at": None, "abandoned_at": None}
    return deliveries.filter(slot__isnull=True).update(**columns)


def prune_deliveries() -> int:
    """Delete at most PRUNE_BATCH old deliveries. Those that are due to an enabled endpoint are kept.

    An endpoint that accepts nothing is disabled. Nothing else ends what waits for the host of a task's own webhook.
    """
    old = Delivery.objects.filter(created_at__lt=timezone.now() - KEPT_FOR)
    old = old.exclude(UNDELIVERED, endpoint__is_enabled=True).order_by("created_at")
    ids = list(old.values_list("pk", flat=True)[:PRUNE_BATCH])
    Delivery.objects.filter(pk__in=ids).delete()
    return len(ids)


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
