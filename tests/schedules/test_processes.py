"""A due time is enqueued once, by whichever process finds it, and whenever one of them is killed."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.db import connection

from runqy.broker.broker import Broker
from schedules.models import Fire, Schedule
from schedules.runner import run_schedules
from tests.support.schedule_runners import run_in_processes
from tests.support.tasks import listed, take
from tests.tasks.task_helpers import succeed

pytestmark = [
    pytest.mark.usefixtures("queues"),
    pytest.mark.slow,
    pytest.mark.skipif(connection.vendor != "sqlite", reason="one database is enough for processes"),
]
PERIOD_S = 3600


def let_be_due(broker: Broker) -> None:
    """Let each schedule be due now, and not again in this test."""
    due = broker.now() - timedelta(seconds=1)
    Schedule.objects.update(created_at=due - timedelta(seconds=PERIOD_S), next_due_at=due, wake_at=due)


def end_tasks(broker: Broker) -> int:
    """Run what is pending, so that nothing is left of it; return how many tasks these were."""
    taken = take(broker, 500, "mail")
    for each in taken:
        succeed(broker, each, b"1")
    assert listed(broker, "mail") == {}
    return len(taken)


@pytest.mark.parametrize("step", ["inserted", "enqueued", "stored"])
def test_a_process_that_is_killed_at_any_step_leaves_one_task(
    single_broker: Broker, save: Callable[..., Schedule], step: str
) -> None:
    for number in range(3):
        save(name=f"s{number}", cron="", every_s=PERIOD_S)
    let_be_due(single_broker)
    run_in_processes(step)
    ran = end_tasks(single_broker)

    Schedule.objects.update(wake_at=single_broker.now())  # instead of waiting for the lease to end
    run_schedules(single_broker)
    ran += end_tasks(single_broker)

    assert ran == 3
    assert [fire.state for fire in Fire.objects.all()] == ["enqueued"] * 3
    assert all(schedule.wake_at == schedule.next_due_at for schedule in Schedule.objects.all())


def test_several_processes_fire_each_due_time_once(single_broker: Broker, save: Callable[..., Schedule]) -> None:
    for number in range(100):
        save(name=f"s{number}", cron="", every_s=PERIOD_S)
    let_be_due(single_broker)

    run_in_processes("race")

    assert end_tasks(single_broker) == 100
    assert Fire.objects.filter(state="enqueued").values("schedule").distinct().count() == Fire.objects.count() == 100
