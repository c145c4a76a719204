"""Walks the audit's chain."""

from dataclasses import dataclass, field

from django.db.models import Max

from runqy.audit.models import CHAIN_BEGIN, AuditHead, AuditRecord

__all__ = ["ChainReport", "verify_chain"]

MOST_BREAKS = 20


@dataclass(slots=True, kw_only=True)
class ChainReport:
    """What a walk along the chain found."""

    number: int = 0
    """Of the last record."""
    digest: str = CHAIN_BEGIN
    breaks: list[str] = field(default_factory=list)
    """What does not fit, the first few."""

    @property
    def is_whole(self) -> bool:
        """Tell whether nothing was changed, removed or put in between."""
        return not self.breaks


def verify_chain(*, expected: tuple[int, str] | None = None) -> ChainReport:
    """Compute every digest anew and compare it, each record's predecessor, and the head.

    `expected` is the number and digest of a record as somebody noted them earlier, outside of this database: whoever
    can write to it can also compute a new chain, but not to that digest.
    """
    report = ChainReport()
    newest: int = AuditRecord.objects.aggregate(number=Max("number"))["number"] or 0
    head = AuditHead.objects.filter(pk=1).first() or AuditHead()  # read second, so that it knows of the newest
    seen = expected is None or expected == (0, CHAIN_BEGIN)
    for row in AuditRecord.objects.filter(number__lte=max(newest, head.number)).order_by("number").iterator(1000):
        _check(row, report)
        seen = seen or expected == (row.number, row.digest)
        report.number, report.digest = row.number, row.digest
    if (head.number, head.digest) != (report.number, report.digest):
        _note(report, f"The head says that record {head.number} is the last, but it is {report.number}.")
    if not seen and expected is not None:
        _note(report, f"No record {expected[0]} with the digest {expected[1]}.")
    return report


def _check(row: AuditRecord, report: ChainReport) -> None:
    """Note what does not fit about a record that follows those seen."""
    if row.number != report.number + 1:
        _note(report, f"Records {report.number + 1} to {row.number - 1} are missing.")
    elif row.previous != report.digest:
        _note(report, f"Record {row.number} does not follow the one before it.")
    if row.digest != row.chained_digest():
        _note(report, f"Record {row.number} is not as it was written.")


def _note(report: ChainReport, sentence: str) -> None:
    """Add what does not fit, unless there is more than enough already."""
    if len(report.breaks) < MOST_BREAKS:
        report.breaks.append(sentence)
