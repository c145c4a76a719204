"""Search audit records, and verify their chain."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from django.db.models import Max, Q, QuerySet
from django.db.models.functions import Left
from django.db.models.lookups import Exact

from runqy.audit.changes import Changes, encode_changes
from runqy.audit.models import CHAIN_BEGIN, AuditHead, AuditRecord, chain_key, fit_text
from runqy.broker.streams.audit_stream import count_entries
from runqy.errors import BrokerUnavailable
from runqy.redis_connection import get_broker

MAX_BREAKS = 20
REMOVED = "audit.removed"
_CHUNK = 1000
_SEARCHED = ("object_name", "actor_name", "action", "address", "request_id")


@dataclass(slots=True, kw_only=True)
class ChainReport:
    """The result of verifying the chain."""

    number: int = 0
    """The number of the last record that was verified."""
    digest: str = CHAIN_BEGIN
    breaks: list[str] = field(default_factory=list)
    """The first errors."""

    @property
    def is_whole(self) -> bool:
        return not self.breaks


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
        # Numbers are BigIntegerField: nineteen digits may not fit.
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


def verify_record(record: AuditRecord) -> bool:
    """Return whether a record is unchanged and follows its predecessor."""
    before = AuditRecord.objects.filter(number=record.number - 1).values_list("digest", flat=True).first()
    if record.digest != record.chained_digest(chain_key()):
        return False
    return record.previous == before if before else _is_first(record)


def verify_chain(*, expected: tuple[int, str] | None = None, old_secret_keys: Sequence[str] = ()) -> ChainReport:
    """Verify every digest, each record's predecessor, and the head.

    `expected` is the number and digest of a record, stored outside this database. `old_secret_keys` verify records
    from before a change of the secret key.
    """
    keys = [chain_key(), *map(chain_key, old_secret_keys)]
    report = ChainReport()
    newest: int = AuditRecord.objects.aggregate(number=Max("number"))["number"] or 0
    head = AuditHead.objects.filter(pk=1).first() or AuditHead()  # after the newest number, so that it is not older
    seen = expected is None or expected == (0, CHAIN_BEGIN)
    first = AuditRecord.objects.order_by("number").first()
    if first and _is_first(first):
        report.number, report.digest = first.number - 1, first.previous
    for row in AuditRecord.objects.filter(number__lte=max(newest, head.number)).order_by("number").iterator(1000):
        _check(row, report, keys)
        seen = seen or expected == (row.number, row.digest)
        report.number, report.digest = row.number, row.digest
    if (head.number, head.digest) != (report.number, report.digest):
        _add_break(report, f"The last record is {report.number}, but the head names {head.number}.")
    if not seen and expected is not None:
        _add_break(report, f"There is no record {expected[0]} with digest {expected[1]}.")
    return report


def _is_first(record: AuditRecord) -> bool:
    if record.number == 1:
        return record.previous == CHAIN_BEGIN
    # Retention removed what was before: a record, which nobody can write without the key, says up to where.
    changes = encode_changes(describe_removal(record.number - 1, record.previous))
    return AuditRecord.objects.filter(action=REMOVED, changes=changes).exists()


def describe_removal(number: int, digest: str) -> Changes:
    """Return the changes in the record of a removal. `number` and `digest` are those of the last record removed."""
    return {"through": (None, number), "digest": (None, digest)}


def _check(row: AuditRecord, report: ChainReport, keys: Sequence[bytes]) -> None:
    if row.number != report.number + 1:
        _add_break(report, f"Records {report.number + 1} to {row.number - 1} are missing.")
    elif row.previous != report.digest:
        _add_break(report, f"Record {row.number} does not follow its predecessor.")
    if all(row.digest != row.chained_digest(key) for key in keys):
        _add_break(
            report,
            f"Record {row.number} was changed, or made with another RUNQY_SECRET_KEY (--old-secret-key-file).",
        )


def _add_break(report: ChainReport, message: str) -> None:
    if len(report.breaks) < MAX_BREAKS:
        report.breaks.append(message)


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
