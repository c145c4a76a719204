"""Search audit records."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Q, QuerySet
from django.db.models.functions import Left
from django.db.models.lookups import Exact

from runqy.audit.models import AuditRecord, fit_text
from runqy.broker.streams.audit_stream import count_entries
from runqy.errors import BrokerUnavailable
from runqy.redis_connection import get_broker

_CHUNK = 1000
_SEARCHED = ("object_name", "actor_name", "action", "address", "request_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFilter:
    """Which records to list. An empty value or None does not limit them."""

    object_name: str = ""
    object_kind: str = ""
    action: str = ""
    actor: str = ""
    text: str = ""
    since: datetime | None = None
    until: datetime | None = None


def list_records(wanted: AuditFilter, *, limit: int, before: int | None = None) -> list[AuditRecord]:
    """Return the newest records that match, with numbers below `before`."""
    condition = search_condition(wanted.text)
    if wanted.object_name:
        condition &= object_condition(wanted.object_name)
    if wanted.object_kind:
        condition &= kind_condition(wanted.object_kind)
    values = {"action": wanted.action or None, "actor_name": wanted.actor or None, "number__lt": before}
    times = {"at__gte": wanted.since, "at__lt": wanted.until}
    condition &= Q(**{column: value for column, value in {**values, **times}.items() if value is not None})
    return list(AuditRecord.objects.filter(condition).order_by("-number")[:limit])


def object_condition(name: str) -> Q:
    """Return the condition that a record is about this object or a part of it."""
    return Q(object_name=name) | _begins("object_name", f"{name}/")


def kind_condition(kind: str) -> Q:
    """Return the condition that a record is about objects of this kind or their parts."""
    return Q(object_kind=kind) | _begins("object_kind", f"{kind}_")


def _begins(column: str, text: str) -> Q:
    # `__startswith` of SQLite ignores the case.
    return Q(Exact(Left(column, len(text)), text))


def search_condition(text: str) -> Q:
    """Return the condition that each word occurs in a name, the action, the address or the request id.

    A number, with or without `#`, also finds the record with this number.
    """
    found = Q()
    for word in text.split():
        by_word = Q(*((f"{name}__icontains", word) for name in _SEARCHED), _connector=Q.OR)
        digits = word.removeprefix("#")
        # Numbers are of 64 bits: nineteen digits may not fit.
        if digits.isascii() and digits.isdigit() and len(digits) < 19:
            by_word |= Q(number=int(digits))
        found &= by_word
    return found


def list_values(column: str) -> list[str]:
    """Return the values of a column, each once."""
    return list(AuditRecord.objects.order_by(column).values_list(column, flat=True).distinct())


def count_waiting() -> int | None:
    """Return how many records wait in Redis; None if Redis is unavailable."""
    try:
        return get_broker().run(count_entries())
    except BrokerUnavailable:
        return None


def iterate_records(records: QuerySet[AuditRecord]) -> Iterator[AuditRecord]:
    """Yield records, newest first. Each chunk is a query of its own, without a database cursor."""
    chunk = list(records.order_by("-number")[:_CHUNK])
    while chunk:
        yield from chunk
        chunk = list(records.filter(number__lt=chunk[-1].number).order_by("-number")[:_CHUNK])


def list_records_about(
    task_id: str, redis_queue: str, *, bulk_actions: Sequence[str], several: Sequence[str], limit: int = 20
) -> list[AuditRecord]:
    """Return the newest records about a task, newest first.

    These are its own records, those of `bulk_actions`, and those of its queue whose action is one of `several` and
    whose changes name the task.
    """
    conditions = [
        Q(object_kind="task", object_name=fit_text(task_id)),
        Q(object_kind="bulk_action", object_name__in=bulk_actions),
        Q(object_kind="queue", object_name=redis_queue, action__in=several, changes__contains=json.dumps(task_id)),
    ]
    found = [row for each in conditions for row in AuditRecord.objects.filter(each).order_by("-number")[:limit]]
    return sorted(found, key=lambda row: row.number, reverse=True)[:limit]
