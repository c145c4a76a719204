"""Insert rows of runs. Everything is computed and encoded before the transaction begins."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from django.db import connection
from django.db.models import DateTimeField

from tasks.models import TaskRun
from tasks.rollups import RollupDeltas, sum_up

RunKey = tuple[str, str]
"""The id of the task and the id of the run."""

MAX_ROWS_PER_STATEMENT = 200
"""SQLite's limit is 32,766 values. One statement for each row would write each to the full-text index separately."""


class RunRow(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """The columns of a `TaskRun`, and what its rollups need in addition.

    It is not a model instance, because that takes ten times as long to create and insert.
    """

    task_id: str
    run_id: str
    queue: str
    sub_queue: str
    redis_queue: str
    attempt: int
    outcome: str
    is_final: bool
    is_foreign: bool
    worker_id: str
    commit: str
    request_id: str
    enqueued_at: datetime | None
    started_at: datetime | None
    ended_at: datetime
    wait_ms: int | None
    run_ms: int | None
    error_class: str
    error_message: str
    fingerprint: str | None
    payload: str
    result: str
    traceback: str
    is_first: bool
    """Not a column. The task is counted as enqueued with this run."""


COLUMN_NAMES = tuple(name for name in RunRow.__struct_fields__ if name != "is_first")
_TIMES = [COLUMN_NAMES.index(name) for name in ("enqueued_at", "started_at", "ended_at")]
_TIME = DateTimeField()
_TABLE = TaskRun._meta.db_table
_COLUMNS = ", ".join(f'"{name}"' for name in COLUMN_NAMES)
_INSERT = f'INSERT INTO "{_TABLE}" ({_COLUMNS}) '
_MARKS = f"({', '.join(['%s'] * len(COLUMN_NAMES))})"
_FROM_JSON = f'SELECT {_COLUMNS} FROM json_populate_recordset(NULL::"{_TABLE}", %s::json)'  # noqa: S608 (constants)
"""One parameter, because psycopg takes longer to render 23 for each row than everything else takes."""

_encode_json = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class PreparedRows:
    """Rows that are not stored yet, and everything that can be computed without the database."""

    rows: Mapping[RunKey, RunRow]
    values: Mapping[RunKey, Any]
    """Each row in the form for the database."""
    rollups: RollupDeltas
    """What all rows add to the rollups."""

    def insert(self, keys: Sequence[RunKey]) -> None:
        with connection.cursor() as cursor:
            for start in range(0, len(keys), MAX_ROWS_PER_STATEMENT):
                part = [self.values[key] for key in keys[start : start + MAX_ROWS_PER_STATEMENT]]
                if connection.vendor == "postgresql":
                    cursor.execute(_INSERT + _FROM_JSON, [f"[{','.join(part)}]"])
                else:
                    marks = ", ".join([_MARKS] * len(part))
                    cursor.execute(f"{_INSERT}VALUES {marks}", [value for values in part for value in values])

    def sum_up(self, keys: Sequence[RunKey]) -> RollupDeltas:
        """Return what the rows with these keys add to the rollups."""
        return self.rollups if len(keys) == len(self.rows) else sum_up(self.rows[key] for key in keys)


def prepare_rows(rows: Iterable[RunRow]) -> PreparedRows:
    """Return rows in a form that is inserted quickly. Of rows with the same key, keep the first."""
    by_key: dict[RunKey, RunRow] = {}
    for row in rows:
        by_key.setdefault((row.task_id, row.run_id), row)
    encode = _to_json if connection.vendor == "postgresql" else _to_values
    return PreparedRows(
        rows=by_key,
        values={key: encode(row) for key, row in by_key.items()},
        rollups=sum_up(by_key.values()),
    )


def _to_json(row: RunRow) -> str:
    return _encode_json(row).decode()


def _to_values(row: RunRow) -> Sequence[Any]:
    values = [getattr(row, name) for name in COLUMN_NAMES]
    for index in _TIMES:
        values[index] = _TIME.get_db_prep_save(values[index], connection)
    return values
