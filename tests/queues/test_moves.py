"""Moves between Redis queues: to the name that an upgrade gives a queue, and on request."""

import json

import pytest

from queues import moves
from queues.duties import Mover
from queues.existing_queues import publish_existing_queues
from queues.models import QueueMove, QueueSource
from queues.moves import request_move, run_moves
from queues.operations import save_queue
from queues.queries import get_fresh_catalog
from runqy.broker import keys
from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.queues.pausing import find_pause, pause, unpause
from runqy.broker.queues.stats import read_queue_names
from runqy.broker.tasks.finish import complete
from runqy.errors import QueueInvalid, QueueNotFound
from tasks.duties import RunHistory
from tests.api.client import ApiClient
from tests.queues.samples import spec
from tests.support.audit import audit_records
from tests.support.tasks import counters, listed, put, take
from workers.operations import register_worker

pytestmark = pytest.mark.usefixtures("configuration")


@pytest.fixture
def broker(single_broker: Broker) -> Broker:
    return single_broker


@pytest.fixture
def dotted(settings) -> None:
    """Upgrade an installation with the separator of the Go system."""
    settings.RUNQY_SUBQUEUE_SEPARATOR = "."


def save(name: str, *sub_queues: str) -> None:
    save_queue(spec=spec(name, *sub_queues), source=QueueSource.API)


def move_of_table() -> list[tuple[str, str]]:
    return list(QueueMove.objects.values_list("source", "destination"))


@pytest.mark.usefixtures("dotted")
def test_an_upgrade_moves_the_tasks_of_a_plain_queue_and_drops_its_old_name(broker: Broker) -> None:
    save("mail")
    put(broker, "done", "t", queue="mail", retention_s=60)
    (taken,) = take(broker, 1, "mail")
    broker.run(complete(taken.lease, taken.message, b"1", now_ns=broker.now_ns()))
    RunHistory().run_tick(broker)

    Mover().run_tick(broker)

    assert listed(broker, "mail.default") == {"pending": ["t"], "completed": ["done"]}
    assert counters(broker, "mail.default") == (1, 0)
    assert broker.run(read_queue_names()) == ["mail.default"]
    assert list(broker.client.scan_iter("*{mail}*")) == []


@pytest.mark.usefixtures("dotted")
def test_a_running_task_ends_at_its_worker_before_its_queue_gets_the_new_name(broker: Broker) -> None:
    save("mail")
    put(broker, "running", queue="mail")
    (taken,) = take(broker, 1, "mail")
    run_moves(broker)
    publish_existing_queues(broker)

    assert register_worker(queue="mail").redis_queues == (("mail.default", 5), ("mail", 5))
    broker.run(complete(taken.lease, taken.message, b"1", now_ns=broker.now_ns()))
    run_moves(broker)

    assert listed(broker, "mail.default") == {"completed": ["running"]}
    assert broker.run(read_queue_names()) == ["mail", "mail.default"]  # its run is not in the history yet
    RunHistory().run_tick(broker)
    run_moves(broker)
    assert broker.run(read_queue_names()) == ["mail.default"]


@pytest.mark.usefixtures("dotted")
def test_a_paused_queue_stays_paused_under_its_new_name_until_it_is_resumed(broker: Broker) -> None:
    save("mail")
    put(broker, "running", "t", queue="mail")
    take(broker, 1, "mail")
    broker.run(pause("mail", now_ns=broker.now_ns(), by="ann"))
    run_moves(broker)
    found = broker.run(find_pause("mail.default"))

    broker.run(unpause("mail.default", now_ns=broker.now_ns()))
    run_moves(broker)

    assert found is not None
    assert found.by == "ann"
    assert broker.run(find_pause("mail.default")) is None
    assert broker.run(find_pause("mail")) is not None  # its running task is not finished


@pytest.mark.usefixtures("dotted")
def test_tasks_that_an_old_server_adds_under_the_old_name_are_moved_even_if_it_is_not_listed(broker: Broker) -> None:
    save("mail")
    put(broker, "late", queue="mail")
    broker.client.srem(keys.QUEUES, "mail")

    run_moves(broker)

    assert listed(broker, "mail.default") == {"pending": ["late"]}


def test_a_request_that_is_repeated_after_the_upgrade_creates_no_second_task(broker: Broker, settings) -> None:
    save("mail")
    body, client = {"queue": "mail", "data": {"n": 1}}, ApiClient()
    first = json.loads(client.post("/queue/add", body, **{"Idempotency-Key": "k"}).content)["info"]["id"]
    settings.RUNQY_SUBQUEUE_SEPARATOR = "."

    Mover().run_tick(broker)
    again = json.loads(client.post("/queue/add", body, **{"Idempotency-Key": "k"}).content)["info"]["id"]

    assert again == first
    assert listed(broker, "mail.default") == {"pending": [first]}
    (record,) = broker.client.scan_iter("runqy:q:{mail.default}:created:*")
    assert 0 < broker.client.ttl(record) <= 24 * 3600


@pytest.mark.usefixtures("dotted")
def test_only_plain_queues_are_renamed(broker: Broker) -> None:
    save("ai", "high:10", "default:1")
    put(broker, "a", queue="ai")
    put(broker, "b", queue="foreign")

    run_moves(broker)

    assert (listed(broker, "ai"), listed(broker, "foreign")) == ({"pending": ["a"]}, {"pending": ["b"]})


def test_with_an_underscore_nothing_is_renamed(broker: Broker) -> None:
    save("mail")
    put(broker, "a", queue="mail")
    put(broker, "b", queue="mail.default")

    run_moves(broker)

    assert listed(broker, "mail") == {"pending": ["a"]}
    assert listed(broker, "mail.default") == {"pending": ["b"]}


@pytest.mark.parametrize("destination", ["ai.high", "ai_high"])
def test_a_requested_move_is_carried_out_and_recorded(broker: Broker, destination: str) -> None:
    save("ai", "high:10")
    put(broker, "a", "b", queue="foreign")

    request_move(broker, source="foreign", destination=destination)
    run_moves(broker)

    assert listed(broker, "ai_high") == {"pending": ["a", "b"]}
    assert move_of_table() == []
    (row,) = audit_records().filter(action="queue.move_requested")
    assert (row.object_name, json.loads(row.changes)) == ("foreign", {"destination": {"old": None, "new": "ai_high"}})


def test_a_requested_move_ends_when_the_last_running_task_has_ended(broker: Broker) -> None:
    save("mail")
    put(broker, "running", queue="foreign")
    (taken,) = take(broker, 1, "foreign")
    request_move(broker, source="foreign", destination="mail")

    run_moves(broker)
    assert move_of_table() == [("foreign", "mail")]
    broker.run(complete(taken.lease, taken.message, b"1", now_ns=broker.now_ns()))
    run_moves(broker)
    run_moves(broker)

    assert listed(broker, "mail") == {"completed": ["running"]}
    assert move_of_table() == []


def test_a_large_queue_is_moved_in_several_ticks(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moves, "TASKS_PER_TICK", 2)
    monkeypatch.setattr("runqy.broker.queues.moving.BATCH_MAX_TASKS", 2)
    save("mail")
    put(broker, *map(str, range(5)), queue="foreign")
    request_move(broker, source="foreign", destination="mail")

    left = []
    for _ in range(3):
        run_moves(broker)
        left.append(broker.client.llen(QueueKeys("foreign").pending))

    assert left == [3, 1, 0]
    assert listed(broker, "mail") == {"pending": ["0", "1", "2", "3", "4"]}


def test_a_move_to_a_queue_that_was_deleted_stops(broker: Broker) -> None:
    save("mail")
    put(broker, "a", queue="foreign")
    QueueMove.objects.create(source="foreign", destination="gone")

    run_moves(broker)

    assert listed(broker, "foreign") == {"pending": ["a"]}
    assert move_of_table() == []


def test_tasks_of_a_go_system_are_moved_to_the_name_that_an_underscore_gives_their_queue(broker: Broker) -> None:
    save("mail")
    put(broker, "a", queue="mail.default")
    publish_existing_queues(broker)

    request_move(broker, source="mail.default", destination="mail")
    run_moves(broker)

    assert listed(broker, "mail") == {"pending": ["a"]}
    assert get_fresh_catalog().resolve("mail").redis_queue == "mail"


@pytest.mark.parametrize(
    ("source", "destination", "error", "expected"),
    [
        ("mail", "other", QueueInvalid, "mail belongs to a defined queue"),
        ("nowhere", "mail", QueueNotFound, "No queue 'nowhere' exists in Redis"),
        ("foreign", "unknown", QueueNotFound, "No queue 'unknown'"),
        ("mail.default", "mail.default", QueueInvalid, "means mail.default itself"),
    ],
)
def test_a_move_that_makes_no_sense_is_refused(
    broker: Broker, source: str, destination: str, error: type[Exception], expected: str
) -> None:
    save("mail")
    save("other")
    put(broker, "a", queue="foreign")
    put(broker, "b", queue="mail.default")
    publish_existing_queues(broker)

    with pytest.raises(error, match=expected):
        request_move(broker, source=source, destination=destination)

    assert move_of_table() == []
