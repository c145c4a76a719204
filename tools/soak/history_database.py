"""Read the history from the database by SQL, without the product's own code."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import psycopg

from tools.soak.attempts import LETTERS
from tools.soak.stack import Stack


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamCounts:
    """What the database counted about a queue's stream."""

    counted_only: int = 0
    dropped: int = 0
    invalid: int = 0


class HistoryDatabase:
    def __init__(self, stack: Stack) -> None:
        self._sqlite = f"file:{stack.folder / 'home' / 'db.sqlite3'}?mode=ro"
        self._postgresql = stack.database.url if stack.database else ""

    def read_rows(self, queue: str) -> dict[str, str]:
        """Return the outcomes of each task's attempts, a letter each, in the order in which they were stored."""
        rows: dict[str, str] = {}
        query = "SELECT task_id, outcome FROM tasks_taskrun WHERE redis_queue = ? ORDER BY id"
        for task_id, outcome in self._select(query, queue):
            rows[task_id] = rows.get(task_id, "") + LETTERS[outcome]
        return rows

    def find_twice(self, queue: str) -> list[str]:
        """Return attempts with several rows, and tasks with several final rows."""
        attempts = self._select(
            "SELECT task_id, attempt, count(*) FROM tasks_taskrun WHERE redis_queue = ? AND attempt > 0"
            " GROUP BY task_id, attempt HAVING count(*) > 1",
            queue,
        )
        finals = self._select(
            "SELECT task_id, count(*) FROM tasks_taskrun WHERE redis_queue = ? AND is_final"
            " GROUP BY task_id HAVING count(*) > 1",
            queue,
        )
        return [
            *(f"attempt {attempt} of {task_id} has {count} rows" for task_id, attempt, count in attempts),
            *(f"{task_id} ended {count} times" for task_id, count in finals),
        ]

    def sum_rollups(self, table: str, queue: str) -> dict[str, int]:
        """Return the sums of a table of rollups, by outcome."""
        sums = ", ".join(f"coalesce(sum({outcome}), 0)" for outcome in LETTERS)
        (row,) = self._select(f"SELECT {sums} FROM {table} WHERE redis_queue = ?", queue)  # noqa: S608 (own names)
        return {outcome: int(value) for outcome, value in zip(LETTERS, row, strict=True)}

    def read_stream(self, queue: str) -> StreamCounts:
        query = "SELECT counted_only, dropped, invalid FROM tasks_runstream WHERE redis_queue = ?"
        for counted_only, dropped, invalid in self._select(query, queue):
            return StreamCounts(counted_only=counted_only, dropped=dropped, invalid=invalid)
        return StreamCounts()

    def _select(self, query: str, queue: str) -> Iterator[tuple[Any, ...]]:
        if not self._postgresql:
            with closing(sqlite3.connect(self._sqlite, uri=True, timeout=30)) as connection:
                yield from connection.execute(query, (queue,))
            return
        with psycopg.connect(self._postgresql) as database, database.cursor() as cursor:
            yield from cursor.execute(query.replace("?", "%s"), (queue,))
