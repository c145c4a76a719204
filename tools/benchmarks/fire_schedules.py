"""Let schedules be due in the environment's Redis and database for the benchmark of them, and print the times."""

import json
import sys
import time
from datetime import timedelta

import django

django.setup()

from django.conf import settings  # noqa: E402
from django.db import connection  # noqa: E402
from django.test.utils import CaptureQueriesContext  # noqa: E402

from queues.models import QueueSource  # noqa: E402
from queues.operations import save_queue  # noqa: E402
from runqy.redis_connection import get_broker  # noqa: E402
from schedules import runner  # noqa: E402
from schedules.models import Fire, Schedule, ScheduleSource  # noqa: E402
from schedules.runner import run_schedules  # noqa: E402
from tests.queues.samples import spec  # noqa: E402

IDLE_PASSES = 20

if __name__ == "__main__":
    count = int(sys.argv[1])
    settings.DEBUG = False
    broker = get_broker()
    broker.measure_clock()
    save_queue(spec=spec("schedules"), source=QueueSource.API)
    now = broker.now()
    Schedule.objects.all().delete()
    Schedule.objects.bulk_create(
        Schedule(
            name=f"schedule-{number:05}",
            queue="schedules",
            parent_queue="schedules",
            payload='{"n":1}',
            cron=f"{number % 60} {number % 24} * * *",
            time_zone="Europe/Berlin",
            overlap="skip",
            catch_up="last",
            source=ScheduleSource.API,
            created_by={"kind": "command", "name": "bench"},
            created_at=now - timedelta(days=2),
            next_due_at=now + timedelta(hours=1),
            wake_at=now + timedelta(hours=1),
        )
        for number in range(count)
    )
    run_schedules(broker)
    with CaptureQueriesContext(connection) as queries:
        run_schedules(broker)
    started_s = time.perf_counter()
    for _ in range(IDLE_PASSES):
        run_schedules(broker)
    idle_ms = (time.perf_counter() - started_s) / IDLE_PASSES * 1000
    plan = str(Schedule.objects.filter(wake_at__lte=now).order_by("wake_at")[: runner.PAGE].explain())
    due = now - timedelta(seconds=1)
    Schedule.objects.update(next_due_at=due, wake_at=due)
    started_s, used_s = time.perf_counter(), time.process_time()
    while Schedule.objects.filter(wake_at__lte=due).exists():
        run_schedules(broker)
    took_s = time.perf_counter() - started_s
    print(
        json.dumps(
            {
                "idle_queries": len(queries),
                "idle_ms": idle_ms,
                "is_indexed": "schedule_by_wake" in plan,
                "due_ms": took_s / count * 1000,
                "due_cpu_ms": (time.process_time() - used_s) / count * 1000,
                "enqueued": Fire.objects.filter(state=Fire.State.ENQUEUED).count(),
            }
        )
    )
