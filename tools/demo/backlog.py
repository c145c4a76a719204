"""Samples of the backlog of a demo instance."""

from datetime import datetime, timedelta
from random import Random

from django.utils import timezone

from runqy.broker.broker import Broker
from runqy.broker.queues.stats import QueueCounts, count_tasks, read_queue_names
from tasks.history.rollups import MINUTE_S, ROLLUPS, floor_time


def make_backlog(broker: Broker) -> None:
    """Add samples of a week that lead to what is pending now: a paused queue fills up, others have been emptied."""
    now = floor_time(timezone.now(), MINUTE_S)
    times = [now - timedelta(hours=hour) for hour in range(24 * 7, 24, -1)]
    times += [now - timedelta(minutes=15 * quarter) for quarter in range(4 * 24, 4, -1)]
    minutes = [now - timedelta(minutes=minute) for minute in range(60, 0, -1)]
    for count in broker.run(count_tasks(broker.run(read_queue_names()), now_ns=broker.now_ns())):
        _add_samples(count, [*times, *minutes], now)


def _add_samples(count: QueueCounts, times: list[datetime], now: datetime) -> None:
    random = Random(count.queue)  # noqa: S311 (the same instance each time)
    samples = {at: _backlog_at(count, (now - at).total_seconds() / 60, random) for at in times}
    for model, interval_s in ROLLUPS:
        rows = {
            floor_time(at, interval_s): {"backlog": pending, "backlog_max": pending, "oldest_ms": pending * 400}
            for at, pending in samples.items()
        }
        model._default_manager.bulk_create(
            [
                model(redis_queue=count.queue, queue=count.queue.partition("_")[0], start=start, **row)
                for start, row in rows.items()
            ],
            update_conflicts=True,
            unique_fields=["redis_queue", "start"],
            update_fields=["backlog", "backlog_max", "oldest_ms"],
        )


def _backlog_at(count: QueueCounts, minutes_ago: float, random: Random) -> int:
    """Return the number of pending tasks at a time."""
    if count.is_paused:
        return round(count.pending * max(1 - minutes_ago / 30, 0)) + random.randint(0, 2)
    if minutes_ago <= 60:
        return round(count.pending * (1 + minutes_ago / 25)) + random.randint(0, 2)
    return count.pending + random.randint(0, 2 + count.pending)
