"""What a client gets: tasks, outcomes of batches, events and logs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any, Literal, TypedDict, cast

from runqy_sdk.client.errors import ClientError

State = Literal["pending", "active", "scheduled", "retry", "archived", "completed", "aggregating"]
OnConflict = Literal["reject", "return"]


class TaskOptions(TypedDict, total=False):
    """The options of a task. None is the same as not set, and leaves the decision to the queue."""

    delay: float | timedelta | str | None
    """The time until it may start: seconds, or a text such as `15m`."""
    process_at: datetime | None
    """When it may start, instead of `delay`."""
    deadline: datetime | None
    """It does not run after this time."""
    timeout: float | timedelta | str | None
    """How long one run may take: seconds, or a text."""
    max_retry: int | None
    retention: int | None
    """The seconds for which it is kept after it has succeeded."""
    unique_key: str | None
    """No two unfinished tasks of a Redis queue have the same key."""
    unique_for: int | None
    """The seconds of uniqueness, at most until the end of the task."""
    on_conflict: OnConflict | None
    """`reject` raises TaskNotUnique, `return` returns the task that holds the key."""


@dataclass(frozen=True)
class Progress:
    """What a handler reported last."""

    current: float
    total: float | None = None
    message: str = ""


@dataclass(frozen=True)
class Attempt:
    """An attempt of a task."""

    attempt: int
    """1 for the first attempt."""
    worker_id: str
    ended_at: datetime | None
    """None while it runs."""
    error_class: str | None
    """The import path of the exception, such as `builtins.ValueError` or `runqy_sdk.errors.Timeout`."""
    error: str | None
    """Why it failed, shortened; None also if later attempts took its place."""


@dataclass(frozen=True)
class Task:
    """A task, as it was when the server answered."""

    id: str
    queue: str
    """The Redis queue."""
    state: State
    payload: Any
    result: Any
    """What the handler returned; None before, and if nothing is kept."""
    error: str | None
    """Why it failed; of a task that is retried, why its last attempt failed."""
    retried: int
    max_retry: int
    progress: Progress | None
    enqueued_at: datetime | None
    started_at: datetime | None
    completed_at: datetime | None
    next_process_at: datetime | None
    worker_id: str | None
    request_id: str | None
    error_class: str | None = None
    """The import path of the exception behind `error`, if the handler raised one with this SDK, or nothing did."""
    attempts: tuple[Attempt, ...] = ()
    """Those that failed since it was enqueued or run again, and the one that runs or succeeded, oldest first."""
    existing: bool = False
    """An earlier task that holds the unique key of the one that was to be enqueued."""
    warnings: tuple[str, ...] = ()

    @property
    def has_ended(self) -> bool:
        return self.state in ("completed", "archived")


@dataclass(frozen=True)
class Job:
    """A task of `enqueue_many`, with options of its own. Those that are not set are the call's."""

    payload: Any
    task_id: str | None = None
    options: TaskOptions = field(default_factory=TaskOptions)


@dataclass(frozen=True)
class Outcome:
    """What became of a job: the id of its task, or why there is none."""

    task_id: str
    error: ClientError | None = None
    existing: bool = False
    """The id is that of an earlier task, which holds the unique key."""


@dataclass(frozen=True)
class Event:
    """An event of a task: `state`, `progress`, `chunk`, `gap`, `reset`, `end` or `gone`."""

    name: str
    data: dict[str, Any]
    id: str = ""
    """For `Last-Event-ID`; empty for events that are not repeated."""


@dataclass(frozen=True)
class Logs:
    """What an attempt of a task printed."""

    attempt: int
    """0 if no attempt has printed anything."""
    attempts: tuple[int, ...]
    """Those whose output is kept."""
    text: str
    """The last 64 KiB."""
    truncated: bool
    shared: bool
    """Other tasks ran in the same process: some of the text may be theirs."""


def read_task(body: Mapping[str, Any]) -> Task:
    """Return the task of a response."""
    info = body["info"]
    progress = info.get("progress")
    return Task(
        id=str(info["id"]),
        queue=str(info["queue"]),
        state=cast(State, info["state"]),
        payload=info.get("payload"),
        result=info.get("result"),
        error=info.get("error") or info.get("last_err") or None,
        retried=int(info.get("retried") or 0),
        max_retry=int(info.get("max_retry") or 0),
        progress=Progress(progress["current"], progress.get("total"), progress.get("message") or "")
        if progress
        else None,
        enqueued_at=_time(info.get("enqueued_at")),
        started_at=_time(info.get("started_at")),
        completed_at=_time(info.get("completed_at")),
        next_process_at=_time(info.get("next_process_at")),
        worker_id=info.get("worker_id"),
        request_id=info.get("request_id"),
        error_class=info.get("error_class"),
        attempts=tuple(_read_attempt(each) for each in info.get("runs") or ()),
        existing=bool(body.get("existing")),
        warnings=tuple(body.get("warnings") or ()),
    )


def _read_attempt(info: Mapping[str, Any]) -> Attempt:
    return Attempt(
        attempt=int(info["attempt"]),
        worker_id=str(info["worker_id"]),
        ended_at=_time(info.get("ended_at")),
        error_class=info.get("error_class"),
        error=info.get("error"),
    )


def read_logs(body: Mapping[str, Any]) -> Logs:
    return Logs(
        attempt=int(body["attempt"]),
        attempts=tuple(body["attempts"]),
        text=str(body["text"]),
        truncated=bool(body["truncated"]),
        shared=bool(body["shared"]),
    )


def _time(text: str | None) -> datetime | None:
    if not text:
        return None
    # Before Python 3.11 `fromisoformat` knows neither `Z` nor nanoseconds.
    seconds, _, fraction = text.rstrip("Z").partition(".")
    time = datetime.fromisoformat(seconds).replace(tzinfo=timezone.utc)
    return time.replace(microsecond=int(fraction[:6].ljust(6, "0")))
