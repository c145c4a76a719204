"""The numbers of open overviews cost one round trip, however many queues and workers there are."""

import pytest

from runqy.broker.broker import Broker
from runqy.broker.workers.heartbeats import write_heartbeat
from runqy.overview.live_numbers import LiveReader
from tests.support.maintenance_duties import put
from tests.support.workers import RECORD

pytestmark = pytest.mark.usefixtures("stopped_clock")


@pytest.fixture
def round_trips(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    execute, made = broker.connection.execute, []
    monkeypatch.setattr(broker.connection, "execute", lambda commands: made.append(1) or execute(commands))
    return made


def read(reader: LiveReader, broker: Broker, *defined: str) -> dict[str, int]:
    numbers = reader.read(broker, defined, max_age_s=-1)
    return {count.queue: count.pending for count in numbers.counts}


def test_a_refresh_costs_one_round_trip_once_the_names_are_known(broker: Broker, round_trips: list[int]) -> None:
    reader = LiveReader()
    for number in range(20):
        put(broker, f"t{number}", f"q{number}")
    broker.run(write_heartbeat(RECORD, now_ns=broker.now_ns()))
    read(reader, broker, "q1")
    round_trips.clear()

    found = read(reader, broker, "q1")

    assert (len(found), sum(found.values()), len(round_trips)) == (20, 20, 1)


def test_queues_and_workers_that_are_new_are_in_the_next_refresh(broker: Broker) -> None:
    reader = LiveReader()
    assert read(reader, broker, "mail") == {"mail": 0}

    put(broker, "t1", "mail")
    put(broker, "t2", "only-in-redis")
    broker.run(write_heartbeat(RECORD, now_ns=broker.now_ns()))

    assert read(reader, broker, "mail") == {"mail": 1, "only-in-redis": 1}
    workers = reader.read(broker, ["mail"], max_age_s=-1).workers
    assert [worker.worker_id for worker in workers] == [RECORD.worker_id]


def test_readers_share_what_was_read_a_moment_ago(broker: Broker, round_trips: list[int]) -> None:
    reader = LiveReader()
    reader.read(broker, ["mail"], max_age_s=60)
    round_trips.clear()

    reader.read(broker, ["mail"], max_age_s=60)

    assert round_trips == []
