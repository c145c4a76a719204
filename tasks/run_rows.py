"""Insert rows of runs with values that are computed before the transaction begins."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.db import connection

from tasks.models import TaskRun
from tasks.rollups import RollupDeltas, sum_up

RunKey = tuple[str, str]
"""The task's id and the run's."""

MAX_ROWS_PER_STATEMENT = 200
"""One statement for each row would write each to SQLite's full-text index by itself; 32,766 values is its limit."""

_FIELDS = [field for field in TaskRun._meta.concrete_fields if not field.primary_key]
_COLUMNS = ", ".join(f'"{field.column}"' for field in _FIELDS)
_INSERT = f'INSERT INTO "{TaskRun._meta.db_table}" ({_COLUMNS}) VALUES '  # noqa: S608 (constants)
_MARKS = f"({', '.join(['%s'] * len(_FIELDS))})"


@dataclass(frozen=True, slots=True)
class PreparedRows:
    """Rows that are not stored, and all that can be computed without the database."""

    rows: Mapping[RunKey, TaskRun]
    values: Mapping[RunKey, Sequence[Any]]
    rollups: RollupDeltas
    """What all of them add to the rollups."""

    def insert(self, keys: Sequence[RunKey]) -> None:
        """Insert the rows with these keys."""
        if not keys:
            return
        with connection.cursor() as cursor:
            for start in range(0, len(keys), MAX_ROWS_PER_STATEMENT):
                part = keys[start : start + MAX_ROWS_PER_STATEMENT]
                values = [value for key in part for value in self.values[key]]
                cursor.execute(_INSERT + ", ".join([_MARKS] * len(part)), values)

    def sum_up(self, keys: Sequence[RunKey]) -> RollupDeltas:
        """Return what some of them add to the rollups."""
        return self.rollups if len(keys) == len(self.rows) else sum_up(self.rows[key] for key in keys)


def prepare_rows(rows: Sequence[TaskRun]) -> PreparedRows:
    """Return rows in a form that is quickly inserted; the last of those with one key. Raise ValueError."""
    by_key = {(row.task_id, row.run_id): row for row in rows}
    return PreparedRows(
        rows=by_key,
        values={
            key: [field.get_db_prep_save(getattr(row, field.attname), connection) for field in _FIELDS]
            for key, row in by_key.items()
        },
        rollups=sum_up(by_key.values()),
    )
