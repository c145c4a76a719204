"""Observations for tests of the rules."""

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any

from alerts.kinds import AlertKind
from alerts.observations import Observation, QueueObservation
from alerts.rules import RULES, RuleSettings
from runqy.broker.queues.stats import QueueCounts
from tasks.history.failure_counts import FailureCounts
from tasks.history.stats import StatsPoint

NOW = datetime(2026, 11, 26, 12, 0, 30, tzinfo=UTC)


def queue(*redis_queues: QueueCounts, **fields: Any) -> QueueObservation:
    """Return a queue without problems, or with these Redis queues."""
    defaults: dict[str, Any] = {
        "name": "mail",
        "is_enabled": True,
        "redis_queues": redis_queues or [redis_queue()],
        "served": {"mail", "mail_high"},
    }
    return QueueObservation(**defaults | fields)


def redis_queue(name: str = "mail", **fields: Any) -> QueueCounts:
    """Return an empty Redis queue. Those called `mail` and `mail_high` are served by a ready worker."""
    zeros = dict.fromkeys((field.name for field in dataclasses.fields(QueueCounts)), 0)
    return QueueCounts(**zeros | {"queue": name, "is_paused": False} | fields)


def observation(*queues: QueueObservation, **fields: Any) -> Observation:
    """Return an observation of these queues."""
    return Observation(queues=queues, **{"now": NOW} | fields)


def minutes(backlogs: list[int | None] = [], **last: int) -> list[StatsPoint]:  # noqa: B006 (only read)
    """Return a minute for each backlog, and the current one with these counts of failures."""
    start = NOW.replace(second=0)
    past = [
        StatsPoint(start=start - timedelta(minutes=len(backlogs) - index), backlog=backlog)
        for index, backlog in enumerate(backlogs)
    ]
    return [*past, StatsPoint(start=start, failures=FailureCounts(**last))]


def ended(tasks: int, failed: int, **others: int) -> dict[str, int]:
    """Return the counts of new tasks that ended at their first attempt."""
    return {"first_ended": tasks, "first_failed": failed, "tasks_ended": tasks, "tasks_failed": failed} | others


def defaults(kind: AlertKind, queue_name: str) -> RuleSettings:
    """Return the default settings of a rule."""
    return RULES[kind].defaults
