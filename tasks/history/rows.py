"""The row of a run: built from what Redis has, encoded before the transaction begins, and inserted."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
from django.db import connection
from django.db.models import DateTimeField

from queues.catalog import QueueCatalog
from queues.queries import hides_payloads
from runqy.broker.replies import replace_nul
from runqy.broker.states import FAILURES
from runqy.broker.streams.run_log import EndedRun
from tasks.history.error_groups import parse_error
from tasks.history.fulltext_index import payload_text
from tasks.models import TaskRun

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


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueIdentity:
    """The queue and sub-queue of a Redis queue, and what its history may hold."""

    redis_queue: str
    queue: str
    sub_queue: str = ""
    hides_payloads: bool = False

    @classmethod
    def find(cls, redis_queue: str, catalog: QueueCatalog | None) -> "QueueIdentity":
        # A Redis queue that belongs to no queue is its own queue.
        hides = hides_payloads(redis_queue, catalog)
        resolved = catalog.find_redis_queue(redis_queue) if catalog else None
        if resolved is None or catalog is None:
            return cls(redis_queue=redis_queue, queue=redis_queue, hides_payloads=hides)
        queue = resolved.queue.name
        return cls(
            redis_queue=redis_queue,
            queue=queue,
            sub_queue=redis_queue.removeprefix(queue + catalog.separator) if redis_queue != queue else "",
            hides_payloads=hides,
        )


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

    def insert(self, keys: Sequence[RunKey]) -> None:
        with connection.cursor() as cursor:
            for start in range(0, len(keys), MAX_ROWS_PER_STATEMENT):
                part = [self.values[key] for key in keys[start : start + MAX_ROWS_PER_STATEMENT]]
                if connection.vendor == "postgresql":
                    cursor.execute(_INSERT + _FROM_JSON, [f"[{','.join(part)}]"])
                else:
                    marks = ", ".join([_MARKS] * len(part))
                    cursor.execute(f"{_INSERT}VALUES {marks}", [value for values in part for value in values])


def prepare_rows(rows: Iterable[RunRow]) -> PreparedRows:
    """Return rows in a form that is inserted quickly. Of rows with the same key, keep the first."""
    by_key: dict[RunKey, RunRow] = {}
    for row in rows:
        by_key.setdefault((row.task_id, row.run_id), row)
    encode = _to_json if connection.vendor == "postgresql" else _to_values
    return PreparedRows(
        rows=by_key,
        values={key: encode(row) for key, row in by_key.items()},
    )


def _to_json(row: RunRow) -> str:
    return _encode_json(row).decode()


def _to_values(row: RunRow) -> Sequence[Any]:
    values = [getattr(row, name) for name in COLUMN_NAMES]
    for index in _TIMES:
        values[index] = _TIME.get_db_prep_save(values[index], connection)
    return values


def build_row(identity: QueueIdentity, run: EndedRun) -> RunRow:
    """Return the row of a run, not yet stored."""
    error = parse_error(run.error, run.error_class) if run.outcome in FAILURES else None
    # A task that ended without an attempt waited until its end. The wait of an attempt whose start is unknown is
    # unknown too.
    waited_until_ns = run.started_ns if run.started_ns is not None or run.attempt else run.ended_ns
    due_ns = run.enqueued_ns if run.due_ns is None and run.attempt else run.due_ns
    return RunRow(
        task_id=run.task_id,
        run_id=run.run_id,
        queue=identity.queue,
        sub_queue=identity.sub_queue,
        redis_queue=identity.redis_queue,
        attempt=run.attempt,
        outcome=run.outcome.value,
        is_final=run.is_final,
        is_foreign=run.is_foreign,
        worker_id=run.worker_id,
        commit=run.commit,
        request_id=run.request_id,
        enqueued_at=_datetime(run.enqueued_ns),
        started_at=_datetime(run.started_ns),
        ended_at=datetime.fromtimestamp(run.ended_ns / 1e9, UTC),
        wait_ms=_span_ms(due_ns, waited_until_ns),
        run_ms=_span_ms(run.started_ns, run.ended_ns),
        error_class=error.error_class if error else "",
        error_message=error.message if error else "",
        fingerprint=error.fingerprint if error else None,
        payload="" if identity.hides_payloads else _text(run.payload),
        result="" if identity.hides_payloads else _text(run.result),
        traceback=error.traceback if error and not identity.hides_payloads else "",
        is_first=run.attempt == 1 or (run.attempt == 0 and run.is_final and not run.had_attempts),
    )


def _datetime(ns: int | None) -> datetime | None:
    return None if ns is None else datetime.fromtimestamp(ns / 1e9, UTC)


def _span_ms(start_ns: int | None, end_ns: int | None) -> int | None:
    # Not below 0: the times are from different clocks.
    return None if start_ns is None or end_ns is None else max(end_ns - start_ns, 0) // 1_000_000


def _text(data: bytes | None) -> str:
    """Return an excerpt as text that can be searched and that PostgreSQL can store: without NUL and incomplete
    characters.
    """
    return replace_nul(payload_text(data or b""))
