"""The numbers of open overviews cost two round trips, however many queues and workers there are."""

import pytest

from queues.catalog import QueueCatalog
from runqy.broker.broker import Broker
from runqy.broker.states import TaskState
from runqy.broker.workers.heartbeats import write_heartbeat
from runqy.server.overview.queue_counts import read_counts
from tests.queues.samples import definition
from tests.support.links import count_round_trips
from tests.support.maintenance_duties import put
from tests.support.workers import RECORD

pytestmark = pytest.mark.usefixtures("stopped_clock")


def test_all_queues_and_workers_are_read_in_two_round_trips(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        put(broker, f"t{number}", f"q{number}")
    broker.run(write_heartbeat(RECORD, now_ns=broker.now_ns()))
    made = count_round_trips(monkeypatch, broker)

    defined = [definition("q1"), definition("empty")]

    counts = read_counts(broker, QueueCatalog(defined, separator="_"), is_fresh=True)

    assert {queue.name: queue.pending for queue in counts.queues} == {"q1": 1, "empty": 0}
    assert {queue.queue for queue in counts.undefined} == {f"q{number}" for number in range(20)} - {"q1"}
    assert (counts.totals[TaskState.PENDING], counts.workers.total) == (20, 1)
    assert len(made) == 2
