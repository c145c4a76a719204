"""Keep an error that one row raises from all other rows of a duty: it alone is left out, for a minute up to an hour."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import structlog
from django.db import DatabaseError, DataError, IntegrityError, InterfaceError
from django.db.models import CharField, Exists, Model, OuterRef, QuerySet, Value
from django.db.models.functions import Cast, Concat, Left
from django.utils import timezone

from runqy.broker.replies import replace_nul
from runqy.errors import BrokerUnavailable, ConfigurationUnavailable
from runqy.maintenance.models import FailedRow

FIRST_PAUSE_S, MAX_PAUSE_S = 60, 3600
FORGOTTEN_AFTER = timedelta(minutes=15)
"""How long after its pause a row that was not tried again is forgotten: it was deleted, or has nothing to do."""
_NAME_MAX_LENGTH = 255

log = structlog.get_logger(__name__)

M = TypeVar("M", bound=Model)
T = TypeVar("T")


def concerns_all(error: Exception) -> bool:
    """Return whether an error is that of the database or of Redis, and not of the row at which it was met."""
    if isinstance(error, IntegrityError | DataError):  # of the values of a row
        return False
    return isinstance(error, DatabaseError | InterfaceError | BrokerUnavailable | ConfigurationUnavailable)


class RowFailures:
    """The rows of one kind that failed. Stored, so that all maintenance processes leave them out, and an alert opens.

    Use it outside of transactions: the failure of a row is stored after its changes were rolled back.
    """

    def __init__(self, kind: str) -> None:
        """`kind` is what users call such a row: `schedule`."""
        self._kind = kind
        self._known: dict[str, FailedRow] = {}
        self._is_read = True

    def begin_pass(self) -> None:
        """Let the first row that is handled read which rows failed; a pass without rows reads nothing.

        Without this call nothing is ever read.
        """
        self._is_read = False

    @property
    def _failed(self) -> dict[str, FailedRow]:
        """Raise DatabaseError."""
        if not self._is_read:
            self._read()
            self._is_read = True
        return self._known

    def _read(self) -> None:
        failed = {row.key: row for row in FailedRow.objects.filter(kind=self._kind)}
        oldest = timezone.now() - FORGOTTEN_AFTER
        if old := [row.pk for row in failed.values() if row.paused_until < oldest]:
            FailedRow.objects.filter(pk__in=old, paused_until__lt=oldest).delete()
        self._known = failed

    def is_paused(self, key: object) -> bool:
        failed = self._failed.get(_to_key(key))
        return failed is not None and failed.paused_until > timezone.now()

    def list_known(self) -> list[str]:
        """Return those that this process knew at the end of its last pass, without reading them."""
        return list(self._known)

    def exclude_paused(self, rows: QuerySet[M], *, prefix: str = "") -> QuerySet[M]:
        """Leave out rows that are paused, before a page is taken of them: they would fill it, and stop those after it.

        Their keys are primary keys after a prefix.
        """
        if not self._failed:
            return rows
        key = Left(Concat(Value(prefix), Cast(OuterRef("pk"), CharField())), _NAME_MAX_LENGTH)
        of_row = FailedRow.objects.filter(kind=self._kind, key=key)
        return rows.exclude(Exists(of_row.filter(paused_until__gt=timezone.now())))

    @contextmanager
    def isolate(self, key: object, *, name: str = "", queue: str = "") -> Iterator[None]:
        """Handle a row in the block. If it raises, pause the row; raise only what concerns all rows."""
        try:
            yield
        except Exception as error:  # a bug that one row meets must not stop the others
            if concerns_all(error):
                raise
            self._record(_to_key(key), name or str(key), queue, error)
        else:
            self._record_success([key])

    def handle(
        self,
        rows: Sequence[T],
        call: Callable[[Sequence[T]], object],
        *,
        describe: Callable[[T], tuple[object, str, str]],
    ) -> None:
        """Handle the rows that are not paused together, and in halves if that raises, until those that raise are alone.

        `call` is repeatable. `describe` returns key, name and queue of a row. Raise only what concerns all rows.
        """
        if rows and self._failed:
            rows = [row for row in rows if not self.is_paused(describe(row)[0])]
        if not rows:
            return
        if len(rows) == 1:
            key, name, queue = describe(rows[0])
            with self.isolate(key, name=name, queue=queue):
                call(rows)
            return
        try:
            call(rows)
        except Exception as error:
            if concerns_all(error):
                raise
        else:
            self._record_success([describe(row)[0] for row in rows] if self._failed else ())
            return
        middle = len(rows) // 2
        for half in (rows[:middle], rows[middle:]):
            self.handle(half, call, describe=describe)

    def forget(self, key: object) -> None:
        """Let a row be handled again at once: a user changed it."""
        FailedRow.objects.filter(kind=self._kind, key=_to_key(key)).delete()

    def _record(self, key: str, name: str, queue: str, error: Exception) -> None:
        now, before = timezone.now(), self._failed.get(key)
        times = before.times + 1 if before else 1
        pause_s = min(FIRST_PAUSE_S * 2 ** min(times - 1, 10), MAX_PAUSE_S)
        row = FailedRow(
            kind=self._kind,
            key=key,
            name=_to_key(name),
            queue=_to_key(queue),
            error=type(error).__name__[:_NAME_MAX_LENGTH],
            times=times,
            since=before.since if before else now,
            paused_until=now + timedelta(seconds=pause_s),
        )
        self._failed[key] = row
        columns = ["name", "queue", "error", "times", "since", "paused_until"]
        # Another process may record it at the same time.
        FailedRow.objects.bulk_create(
            [row], update_conflicts=True, unique_fields=["kind", "key"], update_fields=columns
        )
        members = {"kind": self._kind, "key": key, "name": name, "queue": queue}
        log.error("row_failed", **members, times=times, paused_s=pause_s, exc_info=error)

    def _record_success(self, keys: Sequence[object]) -> None:
        for key in map(_to_key, keys if self._failed else ()):
            if failed := self._failed.pop(key, None):
                self.forget(key)
                log.info("row_recovered", kind=self._kind, key=key, name=failed.name, failures=failed.times)


def list_failed_rows(*, limit: int) -> list[FailedRow]:
    """Return the rows that fail, those first that have for longest."""
    failing = FailedRow.objects.filter(paused_until__gt=timezone.now() - FORGOTTEN_AFTER)
    return list(failing.order_by("since", "pk")[:limit])


def _to_key(text: object) -> str:
    return replace_nul(str(text)[:_NAME_MAX_LENGTH])
