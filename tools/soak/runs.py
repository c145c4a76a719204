"""Read what the tasks recorded about their runs."""

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of a task by a child process."""

    task_id: str
    run_id: str
    worker: str
    """The name of the soak's worker, which is the same after a restart."""
    started_at: float
    """Unix s."""
    ended_at: float | None = None
    """None if the child ended during the run."""
    outcome: str = ""
    """`ok`, `fail`, or `retry`."""
    commit: str = ""


def read_lines(journal: Path) -> list[dict[str, Any]]:
    """Return what processes noted. The last line may not be whole yet."""
    written = journal.read_text().rpartition("\n")[0] if journal.exists() else ""
    return [json.loads(line) for line in written.splitlines()]


def read_runs(journal: Path) -> dict[str, list[Run]]:
    """Return all runs by task, those of each task in the order in which they began."""
    lines = read_lines(journal)
    ends = {line["run"]: line for line in lines if line["event"] == "end"}
    runs: dict[str, list[Run]] = defaultdict(list)
    for line in lines:
        if line["event"] == "start":
            end = ends.get(line["run"], {})
            runs[line["id"]].append(
                Run(
                    task_id=line["id"],
                    run_id=line["run"],
                    worker=line["worker"],
                    started_at=line["at"],
                    ended_at=end.get("at"),
                    outcome=end.get("outcome", ""),
                    commit=line.get("commit", ""),
                )
            )
    for of_task in runs.values():
        of_task.sort(key=lambda run: run.started_at)
    return dict(runs)
