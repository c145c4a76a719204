"""The numbers of open overviews cost two round trips, however many queues and workers there are."""

import pytest

from runqy.broker.broker import Broker
from runqy.broker.workers.heartbeats import write_heartbeat
from runqy.overview.live_numbers import read_live_numbers
from tests.support.maintenance_duties import put
from tests.support.workers import RECORD

pytestmark = pytest.mark.usefixtures("stopped_clock")


def test_all_queues_and_workers_are_read_in_two_round_trips(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    execute, made = broker.connection.execute, []
    for number in range(20):
        put(broker, f"t{number}", f"q{number}")
    broker.run(write_heartbeat(RECORD, now_ns=broker.now_ns()))
    monkeypatch.setattr(broker.connection, "execute", lambda commands: made.append(1) or execute(commands))

    numbers = read_live_numbers(broker, ["q1", "empty"])

    counts = {count.queue: count.pending for count in numbers.counts}
    assert counts == {"empty": 0} | {f"q{number}": 1 for number in range(20)}
    assert [worker.worker_id for worker in numbers.workers] == [RECORD.worker_id]
    assert len(made) == 2
