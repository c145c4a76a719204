"""Finds records, and walks their chain."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

from django.db.models import Max, Q, QuerySet

from runqy.audit.chain import CHAIN_BEGIN, PLAIN, ChainKey, current_key, derive_key
from runqy.audit.models import AuditHead, AuditRecord

__all__ = [
    "ChainReport",
    "RecordPage",
    "actions",
    "get_page",
    "is_in_its_place",
    "is_key_known",
    "matching",
    "object_kinds",
    "of_kind",
    "of_object",
    "verify_chain",
    "walk",
    "within",
]

MOST_BREAKS = 20
_CHUNK = 1000
_SEARCHED = ("object_name", "actor_name", "action", "address", "request_id")


@dataclass(slots=True, kw_only=True)
class ChainReport:
    """What a walk along the chain found."""

    number: int = 0
    """Of the last record."""
    digest: str = CHAIN_BEGIN
    key_id: str = PLAIN
    """Of the last record."""
    breaks: list[str] = field(default_factory=list)
    """What does not fit, the first few."""

    @property
    def is_whole(self) -> bool:
        """Tell whether nothing was changed, removed or put in between."""
        return not self.breaks


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordPage:
    """Some records that follow one another among those asked for, the newest first."""

    rows: tuple[AuditRecord, ...]
    newer_than: int | None
    """The number that the next newer page comes after; None on the first page."""
    older_than: int | None
    """The number that the next older page comes before; None on the last page."""


def matching(text: str) -> Q:
    """Return the condition that each word stands in a name, the action, the address or the request id.

    A number also finds the record of that number.
    """
    found = Q()
    for word in text.split():
        by_word = Q(*((f"{name}__icontains", word) for name in _SEARCHED), _connector=Q.OR)
        digits = word.removeprefix("#")
        if digits.isascii() and digits.isdigit() and len(digits) < 19:
            by_word |= Q(number=int(digits))
        found &= by_word
    return found


def of_kind(kind: str) -> Q:
    """Return the condition that a record is about a kind of object or its parts, as `vault_entry` is of `vault`."""
    return Q(object_kind=kind) | Q(object_kind__startswith=f"{kind}_")


def of_object(name: str) -> Q:
    """Return the condition that a record is about the object of a name or its parts, as `api-keys/TOKEN` is."""
    return Q(object_name=name) | Q(object_name__startswith=f"{name}/")


def within(first: date | None, last: date | None) -> Q:
    """Return the condition that a record was made on one of the days, in UTC, both included; None: without end."""
    found = Q()
    if first is not None:
        found &= Q(at__gte=datetime(first.year, first.month, first.day, tzinfo=UTC))
    if last is not None and last < date.max:
        following = last + timedelta(days=1)
        found &= Q(at__lt=datetime(following.year, following.month, following.day, tzinfo=UTC))
    return found


def object_kinds() -> list[str]:
    """Return the kinds of objects that there are records of."""
    return list(AuditRecord.objects.order_by("object_kind").values_list("object_kind", flat=True).distinct())


def actions() -> list[str]:
    """Return the actions that there are records of."""
    return list(AuditRecord.objects.order_by("action").values_list("action", flat=True).distinct())


def get_page(
    records: QuerySet[AuditRecord], *, size: int, older_than: int | None = None, newer_than: int | None = None
) -> RecordPage:
    """Return a page of records: the newest ones, or those on one side of a number.

    Nothing is counted or skipped, so that the last page takes no longer than the first.
    """
    if newer_than is not None:
        found = list(records.filter(number__gt=newer_than).order_by("number")[: size + 1])
        rows, has_newer, has_older = found[:size][::-1], len(found) > size, True
    else:
        bounded = records if older_than is None else records.filter(number__lt=older_than)
        found = list(bounded.order_by("-number")[: size + 1])
        rows, has_newer, has_older = found[:size], older_than is not None, len(found) > size
    return RecordPage(
        rows=tuple(rows),
        newer_than=rows[0].number if rows and has_newer else None,
        older_than=rows[-1].number if rows and has_older else None,
    )


def walk(records: QuerySet[AuditRecord]) -> Iterator[AuditRecord]:
    """Give records, the newest first, a few at a time: neither memory nor a cursor of the database is held."""
    before: int | None = None
    while True:
        chunk = get_page(records, size=_CHUNK, older_than=before)
        yield from chunk.rows
        if chunk.older_than is None:
            return
        before = chunk.older_than


def is_in_its_place(record: AuditRecord) -> bool:
    """Return whether a record is as it was written and follows the one before it; the rest is `verify_chain`'s."""
    before = AuditRecord.objects.filter(number=record.number - 1).values_list("digest", "key_id").first()
    digest, key_id = before or (CHAIN_BEGIN if record.number == 1 else None, PLAIN)
    if record.previous != digest or (record.key_id == PLAIN and key_id != PLAIN):
        return False
    return record.digest == record.chained_digest(current_key() if record.key_id != PLAIN else None)


def is_key_known(record: AuditRecord) -> bool:
    """Return whether a record can be verified with this server's secret key."""
    return record.key_id in (PLAIN, current_key().id)


def verify_chain(*, expected: tuple[int, str] | None = None, old_secret_keys: Sequence[str] = ()) -> ChainReport:
    """Compute every digest anew and compare it, each record's predecessor, and the head.

    `expected` is the number and digest of a record that was noted outside of this database. `old_secret_keys` verify
    what was recorded before the secret key was changed.
    """
    keys = {key.id: key for key in (current_key(), *map(derive_key, old_secret_keys))}
    report = ChainReport()
    newest: int = AuditRecord.objects.aggregate(number=Max("number"))["number"] or 0
    head = AuditHead.objects.filter(pk=1).first() or AuditHead()  # read second, so that it knows of the newest
    seen = expected is None or expected == (0, CHAIN_BEGIN)
    for row in AuditRecord.objects.filter(number__lte=max(newest, head.number)).order_by("number").iterator(1000):
        _check(row, report, keys)
        seen = seen or expected == (row.number, row.digest)
        report.number, report.digest, report.key_id = row.number, row.digest, row.key_id
    if (head.number, head.digest) != (report.number, report.digest):
        _note(report, f"The head says that record {head.number} is the last, but it is {report.number}.")
    if report.number and report.key_id == PLAIN:
        _note(report, f"Record {report.number} is the last and has no key, which every new record has.")
    if not seen and expected is not None:
        _note(report, f"No record {expected[0]} with the digest {expected[1]}.")
    return report


def _check(row: AuditRecord, report: ChainReport, keys: Mapping[str, ChainKey]) -> None:
    """Note what does not fit about a record that follows those seen."""
    if row.number != report.number + 1:
        _note(report, f"Records {report.number + 1} to {row.number - 1} are missing.")
    elif row.previous != report.digest:
        _note(report, f"Record {row.number} does not follow the one before it.")
    if row.key_id == PLAIN and report.key_id != PLAIN:
        _note(report, f"Record {row.number} has no key, which the one before it has.")
    elif row.key_id != PLAIN and row.key_id not in keys:
        if row.key_id != report.key_id:
            _note(
                report,
                f"From record {row.number} on, digests were made with another RUNQY_SECRET_KEY (key id {row.key_id}); "
                "give that with --old-secret-key-file to verify them.",
            )
    elif row.digest != row.chained_digest(keys.get(row.key_id)):
        _note(report, f"Record {row.number} is not as it was written.")


def _note(report: ChainReport, sentence: str) -> None:
    """Add what does not fit, unless there is more than enough already."""
    if len(report.breaks) < MOST_BREAKS:
        report.breaks.append(sentence)
