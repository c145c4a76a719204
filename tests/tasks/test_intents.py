"""Tasks that committed rows ask for are enqueued once, whatever happens in between."""

from dataclasses import replace

import pytest

from queues.definitions import LimitOverrides
from queues.models import QueueSource
from queues.operations import save_queue
from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.tasks.enqueue import NewTask, new_task_id
from runqy.errors import QueueDisabled, QueueFull, QueueNotFound, TaskNotUnique
from tasks.intents import MAX_AGE_S, Intent, IntentState, enqueue_intents
from tests.queues.samples import spec
from tests.support.maintenance_duties import MovingClock
from tests.support.redis_client import redis_of
from tests.support.tasks import listed, take_one
from tests.tasks.task_helpers import succeed


@pytest.fixture(autouse=True)
def queues(configuration: None) -> None:
    save_queue(spec=spec("mail"), source=QueueSource.API)
    save_queue(spec=spec("full", limits=LimitOverrides(max_waiting_tasks=1)), source=QueueSource.API)
    save_queue(spec=spec("off", is_enabled=False), source=QueueSource.API)


def intent(broker: Broker, queue: str = "mail", **options: object) -> Intent:
    task = NewTask.requested(id=new_task_id(), queue=queue, payload=b"{}", retention_s=0, **options)
    return Intent(task=task, requested_s=broker.now_s(), request_id="fire-1")


def test_repetitions_enqueue_no_second_task_although_the_first_has_ended_and_was_deleted(broker: Broker) -> None:
    wanted = [intent(broker), intent(broker)]
    first = enqueue_intents(broker, wanted)
    ended = take_one(broker, "mail")
    succeed(broker, ended, b"1")

    second = enqueue_intents(broker, wanted)

    assert {outcome.state for outcome in first + second} == {IntentState.ENQUEUED}
    (left,) = listed(broker, "mail")["pending"]
    assert {left, ended.message.id} == {each.task.id for each in wanted}


def test_each_outcome_names_its_reason(single_broker: Broker) -> None:
    kept = [intent(single_broker, "full"), intent(single_broker, unique_key="once")]
    enqueue_intents(single_broker, kept)
    wanted = [
        intent(single_broker, "off"),
        intent(single_broker, "full"),
        intent(single_broker, unique_key="once"),
        intent(single_broker, "gone"),
        intent(single_broker),
    ]

    outcomes = enqueue_intents(single_broker, wanted)

    delayed, refused = IntentState.DELAYED, IntentState.REFUSED
    assert [(outcome.state, type(outcome.error)) for outcome in outcomes] == [
        (delayed, QueueDisabled),
        (delayed, QueueFull),
        (refused, TaskNotUnique),
        (delayed, QueueNotFound),
        (IntentState.ENQUEUED, type(None)),
    ]
    assert {each.state for each in enqueue_intents(single_broker, kept)} == {IntentState.ENQUEUED}


def test_a_task_of_a_queue_that_was_disabled_after_a_try_counts_as_enqueued(single_broker: Broker) -> None:
    wanted = intent(single_broker)
    enqueue_intents(single_broker, [wanted])
    save_queue(spec=spec("mail", is_enabled=False), source=QueueSource.API)

    (outcome,) = enqueue_intents(single_broker, [wanted])

    assert outcome.state is IntentState.ENQUEUED


def test_what_is_too_old_is_unknown_and_enqueues_nothing(single_broker: Broker) -> None:
    known, unknown = intent(single_broker), intent(single_broker)
    enqueue_intents(single_broker, [known])
    aged = [replace(each, requested_s=each.requested_s - MAX_AGE_S - 1) for each in (known, unknown)]

    outcomes = enqueue_intents(single_broker, aged)

    assert [outcome.state for outcome in outcomes] == [IntentState.ENQUEUED, IntentState.UNKNOWN]
    assert listed(single_broker, "mail") == {"pending": [known.task.id]}


def test_redis_refuses_a_process_that_was_stopped_for_too_long(
    single_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = intent(single_broker)
    MovingClock(monkeypatch).advance(-MAX_AGE_S - 60)  # between its last look at the clock and Redis's
    stopped = Intent(task=wanted.task, requested_s=single_broker.now_s(), request_id="fire-1")

    (outcome,) = enqueue_intents(single_broker, [stopped])

    assert (outcome.state, outcome.error) == (IntentState.DELAYED, None)
    assert not redis_of(single_broker).exists(QueueKeys("mail").task(wanted.task.id))
