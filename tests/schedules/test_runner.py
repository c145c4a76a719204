"""What is due is enqueued once, in its window, as the schedule says."""

from collections.abc import Callable, Sequence
from datetime import timedelta

import pytest

from queues.definitions import FieldType, PayloadField
from queues.deletion import delete_queue
from queues.models import QueueSource
from queues.operations import save_queue
from queues.queries import get_fresh_catalog
from runqy.broker.broker import Broker
from runqy.core.telemetry.tracing import REQUEST_ID
from schedules import runner
from schedules.duties import ScheduleRunner
from schedules.models import Fire, Schedule
from schedules.operations import pause_schedule, trigger_schedule, unpause_schedule
from schedules.queries import ScheduleState, count_by_state, get_state, list_problems
from schedules.runner import CLOCK_ERROR, KEEP_FIRES, RETRY, run_schedules
from schedules.specs import CatchUp, Overlap
from tasks.intents import Intent, IntentOutcome, enqueue_intents
from tests.queues.samples import spec as queue_spec
from tests.schedules.conftest import Times
from tests.support.maintenance_duties import delete_old_rows
from tests.support.tasks import listed, take_one
from tests.tasks.task_helpers import succeed

pytestmark = pytest.mark.usefixtures("queues")
Save = Callable[..., Schedule]


def fires() -> list[tuple[str, str]]:
    return [(f"{fire.due_at:%H:%M}", fire.state) for fire in Fire.objects.order_by("number")]


def last_reason() -> str:
    return Fire.objects.order_by("number").last().reason


def test_a_due_time_enqueues_its_task_once(single_broker: Broker, times: Times, save: Save) -> None:
    save(cron="0 * * * *", options={"retention": 0, "max_retry": 7, "timeout": "90s"})
    times.run_in(minutes=59)
    before = fires()

    times.run_in(minutes=1)
    taken = take_one(single_broker, "mail")
    succeed(single_broker, taken, b"1")
    times.run_in(minutes=30)

    assert before == []
    assert fires() == [("13:00", "enqueued")]
    assert (taken.message.payload, taken.message.retry, taken.message.timeout) == (b'{"n":1}', 7, 90)
    assert taken.message.headers[REQUEST_ID] == "schedule-nightly"
    assert listed(single_broker, "mail") == {}


def test_only_the_last_of_the_due_times_that_passed_is_caught_up(times: Times, save: Save) -> None:
    save(cron="0 * * * *")

    times.run_in(hours=5, minutes=10)

    (fire,) = Fire.objects.all()
    assert (fire.due_at.hour, fire.missed_since.hour, fire.state) == (17, 13, "enqueued")


@pytest.mark.parametrize(
    ("changes", "late", "state"),
    [
        ({"catch_up": CatchUp.SKIP}, timedelta(minutes=2), "skipped"),
        ({"catch_up": CatchUp.SKIP}, timedelta(seconds=30), "enqueued"),
        ({"catch_up_window_s": 600}, timedelta(minutes=11), "missed"),
        ({"catch_up_window_s": 600}, timedelta(minutes=9), "enqueued"),
        ({"cron": "0 13 * * *"}, timedelta(hours=21), "enqueued"),
        ({"cron": "0 13 * * *"}, timedelta(hours=23), "missed"),
    ],
)
def test_a_late_due_time_fires_as_the_schedule_says(
    times: Times, save: Save, changes: dict[str, object], late: timedelta, state: str
) -> None:
    schedule = save(**{"cron": "0 13 * * *", **changes})

    times.run_at(times.now.replace(hour=13) + late)

    schedule.refresh_from_db()
    assert fires() == [("13:00", state)]
    assert bool(schedule.problem) == (state == "missed")


def test_a_fire_is_skipped_while_the_task_before_it_runs(single_broker: Broker, times: Times, save: Save) -> None:
    save(cron="0 * * * *")
    save(name="both", cron="0 * * * *", overlap=Overlap.ALLOW, queue="mail", payload="{}")
    times.run_in(hours=1)
    taken = [take_one(single_broker, "mail") for _ in range(2)]

    times.run_in(hours=1)
    for each in taken:
        succeed(single_broker, each, b"1")
    times.run_in(hours=1)

    states = {
        schedule.name: [fire.state for fire in schedule.fires.order_by("number")] for schedule in Schedule.objects.all()
    }
    assert states == {"nightly": ["enqueued", "skipped", "enqueued"], "both": ["enqueued"] * 3}


def test_a_full_or_disabled_queue_delays_a_fire_within_its_window(
    single_broker: Broker, times: Times, save: Save
) -> None:
    save(name="first", queue="full", cron="0 13 * * *")
    save(name="second", queue="full", cron="1 13 * * *")
    save(name="off", queue="mail", cron="1 13 * * *")
    times.run_in(hours=1)
    save_queue(spec=queue_spec("mail", is_enabled=False), source=QueueSource.API)

    times.run_in(minutes=1)
    delayed = {fire.schedule.name: fire.reason for fire in Fire.objects.filter(state="waiting")}
    succeed(single_broker, take_one(single_broker, "full"), b"1")
    times.run_in(seconds=10)
    states = {fire.schedule.name: fire.state for fire in Fire.objects.all()}
    times.run_in(hours=22)

    assert delayed == {
        "second": "The queue full has 1 waiting tasks, its limit (max_waiting_tasks).",
        "off": "The queue mail is disabled and accepts no tasks.",
    }
    assert states == {"first": "enqueued", "second": "enqueued", "off": "waiting"}
    missed = Schedule.objects.get(name="off")
    assert missed.fires.get().state == "missed"
    assert missed.problem == "The queue mail is disabled and accepts no tasks."


def test_a_payload_that_the_schema_refuses_by_now_is_refused(times: Times, save: Save) -> None:
    schedule = save(cron="0 13 * * *")
    field = PayloadField(name="to", type=(FieldType.STRING,), required=True)
    save_queue(spec=queue_spec("mail", input=(field,)), source=QueueSource.API)

    times.run_in(hours=1)

    schedule.refresh_from_db()
    assert fires() == [("13:00", "refused")]
    assert "to" in schedule.problem


def test_a_deleted_queue_leaves_its_fires_waiting_and_then_missed(
    single_broker: Broker, times: Times, save: Save
) -> None:
    save(cron="0 13 * * *", catch_up_window_s=600)
    delete_queue(single_broker, name="mail", force=True)

    times.run_in(hours=1)
    waiting = fires(), last_reason()
    times.run_in(minutes=11)

    assert waiting == ([("13:00", "waiting")], "The queue mail does not exist.")
    assert fires() == [("13:00", "missed")]


def test_a_schedule_never_enqueues_into_another_queue_that_got_the_name_of_its_sub_queue(
    single_broker: Broker, times: Times, save: Save
) -> None:
    save_queue(spec=queue_spec("shop", "low:1", "high:5"), source=QueueSource.API)
    schedule = save(queue="shop_low", cron="0 13 * * *")
    delete_queue(single_broker, name="shop_low", force=True)
    save_queue(spec=queue_spec("shop_low"), source=QueueSource.API)  # of a client that knows nothing of the queue shop

    times.run_in(hours=1)
    due = last_reason(), fires()
    trigger_schedule(single_broker, name="nightly")
    times.run_in(seconds=30)

    assert due == ("The queue shop_low does not exist.", [("13:00", "waiting")])
    assert last_reason() == "The queue shop_low does not exist."
    assert listed(single_broker, "shop_low") == {}
    assert get_state(schedule, get_fresh_catalog()) == ScheduleState.BROKEN
    assert count_by_state()[ScheduleState.BROKEN] == 1


def test_pause_and_changes_never_fire_for_the_past(single_broker: Broker, times: Times, save: Save) -> None:
    save(cron="0 * * * *")
    pause_schedule(single_broker, name="nightly", reason="holiday")
    times.run_in(hours=3, minutes=10)
    unpause_schedule(single_broker, name="nightly")
    times.run_in(minutes=1)
    save(cron="*/5 * * * *")
    times.run_in(minutes=1)
    save(cron="*/5 * * * *", payload='{"n":2}')

    times.run_in(minutes=3)

    assert fires() == [("15:15", "enqueued")]


def test_a_trigger_fires_at_once_also_while_paused(single_broker: Broker, times: Times, save: Save) -> None:
    schedule = save()
    pause_schedule(single_broker, name="nightly", reason="holiday")
    trigger_schedule(single_broker, name="nightly")
    run_schedules(single_broker)

    trigger_schedule(single_broker, name="nightly")
    run_schedules(single_broker)

    schedule.refresh_from_db()
    assert [fire.state for fire in schedule.fires.all()] == ["enqueued"] * 2
    assert len(listed(single_broker, "mail")["pending"]) == 2
    assert schedule.wake_at is None


def test_jitter_delays_a_fire_by_the_same_time_in_every_process(times: Times, save: Save) -> None:
    for number in range(20):
        save(name=f"s{number}", cron="0 13 * * *", jitter_s=600)

    times.run_in(hours=1)
    first = Fire.objects.count()
    for _ in range(20):
        times.run_in(seconds=30)
    delays = {fire.fire_at - fire.due_at for fire in Fire.objects.all()}

    assert first < 5
    assert Fire.objects.filter(state="enqueued", due_at__minute=0).count() == 20
    assert len(delays) == 20
    assert max(delays) < timedelta(seconds=600)


def test_fires_are_kept_up_to_a_number(times: Times, save: Save) -> None:
    save(cron="", every_s=60, overlap=Overlap.ALLOW)
    for _ in range(KEEP_FIRES + 5):
        times.run_in(seconds=60)

    delete_old_rows()

    assert [fire.number for fire in Fire.objects.order_by("number")] == list(range(6, KEEP_FIRES + 6))


def test_a_fire_that_is_about_to_be_missed_does_not_skip_the_next_one(times: Times, save: Save) -> None:
    save(cron="0 * * * *")
    save_queue(spec=queue_spec("mail", is_enabled=False), source=QueueSource.API)
    times.run_at(times.now.replace(hour=13))
    times.run_at(times.now.replace(hour=14, microsecond=400_000))

    save_queue(spec=queue_spec("mail"), source=QueueSource.API)
    for second in (6, 12):
        times.run_at(times.now.replace(second=second))

    assert fires() == [("13:00", "missed"), ("14:00", "enqueued")]


@pytest.mark.parametrize("first_to_end", [0, -1])
def test_no_due_time_fires_beside_any_task_of_its_schedule(
    single_broker: Broker, times: Times, save: Save, monkeypatch: pytest.MonkeyPatch, first_to_end: int
) -> None:
    monkeypatch.setattr(runner, "LOOKED_AT", 2)
    monkeypatch.setattr(runner, "KEEP_FIRES", 1)
    save(cron="0 * * * *")
    times.run_at(times.now.replace(hour=13))
    for _ in range(3):
        trigger_schedule(single_broker, name="nightly")
        run_schedules(single_broker)
    running = [take_one(single_broker, "mail") for _ in range(4)]
    for hour, ending in ((14, 2), (15, 1), (16, 1)):
        for _ in range(ending):
            succeed(single_broker, running.pop(first_to_end), b"1")
        times.run_at(times.now.replace(hour=hour))
        delete_old_rows()

    times.run_at(times.now.replace(hour=17))

    assert listed(single_broker, "mail")["pending"] == [Fire.objects.get(state="enqueued", due_at__hour=16).task_id]
    assert Fire.objects.get(state="skipped").due_at.hour == 17


def test_schedules_fire_again_at_once_after_the_clock_was_ahead(
    single_broker: Broker, times: Times, save: Save
) -> None:
    duty, begin = ScheduleRunner(), times.now
    save(cron="0 * * * *", overlap=Overlap.ALLOW)
    save(name="waits", cron="0 * * * *", queue="full", overlap=Overlap.ALLOW)
    duty.run(single_broker)
    times.move_to(begin + timedelta(days=3, hours=1))
    save(name="new", cron="", every_s=3600)
    duty.run(single_broker)

    times.move_to(begin + timedelta(minutes=1))
    duty.run(single_broker)
    times.move_to(begin + timedelta(hours=1))
    duty.run(single_broker)
    ahead = Schedule.objects.filter(next_due_at__gt=times.now + timedelta(hours=1))
    at_one = Fire.objects.filter(due_at__lte=times.now).values_list("schedule__name", flat=True)

    assert (list(ahead), sorted(at_one)) == ([], ["new", "nightly", "waits"])


def test_a_problem_ends_when_its_schedule_is_paused_or_over(single_broker: Broker, times: Times, save: Save) -> None:
    save(cron="0 13 * * *", catch_up_window_s=600)
    save(name="last", cron="0 13 * * *", catch_up_window_s=600, ends_at=times.now.replace(hour=23))
    times.run_in(hours=2)
    missed = [row.name for row in list_problems()]

    pause_schedule(single_broker, name="nightly", reason="")

    assert (missed, list_problems()) == (["nightly"], [])
    assert Schedule.objects.get(name="last").problem


def test_a_fire_is_missed_only_once_no_other_process_can_enqueue_it(times: Times, save: Save) -> None:
    save(cron="0 13 * * *", catch_up_window_s=600)
    save_queue(spec=queue_spec("mail", is_enabled=False), source=QueueSource.API)
    times.run_in(hours=1)
    until = Fire.objects.get().until

    times.run_at(until + CLOCK_ERROR / 2)
    within = fires()
    times.run_at(until + CLOCK_ERROR + RETRY)

    assert (within, fires()) == ([("13:00", "waiting")], [("13:00", "missed")])


def test_a_change_while_a_schedule_is_fired_decides_when_it_wakes(
    single_broker: Broker, times: Times, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(cron="0 * * * *")

    def enqueue_while_changed(broker: Broker, intents: Sequence[Intent]) -> list[IntentOutcome]:
        trigger_schedule(broker, name="nightly")
        return enqueue_intents(broker, intents)

    with monkeypatch.context() as patched:
        patched.setattr(runner, "enqueue_intents", enqueue_while_changed)
        times.run_in(hours=1)
    times.run_in(seconds=1)

    assert [(fire.is_triggered, fire.state) for fire in Fire.objects.order_by("number")] == [
        (False, "enqueued"),
        (True, "enqueued"),
    ]
