"""The cost of the pages of tasks and workers with many objects: round trips, queries, processor time."""

import gc
import time
from dataclasses import replace

import pytest
from django.test import Client

from queues.catalog import QueueCatalog
from runqy import clock
from runqy.broker.broker import Broker
from runqy.broker.tasks.enqueue_batch import enqueue_many
from runqy.broker.workers.heartbeats import write_heartbeat
from runqy.configuration import snapshot
from runqy.configuration.snapshot import SnapshotValue
from runqy.redis_connection import get_broker
from tests.queues.samples import definition
from tests.support.links import count_round_trips
from tests.support.tasks import new_task
from tests.support.workers import RECORD, RUNNING, keep_records
from tests.tasks.admin.pages import LIST, change

pytestmark = pytest.mark.slow

QUEUES, WORKERS, TASKS = 2_000, 200, 20_000


@pytest.fixture
def many_objects(single_broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Create many queues with sub-queues, many workers, and many tasks in one queue."""
    definitions = [definition(f"q{number:04}", "high:10", "low:3") for number in range(QUEUES)]
    catalog = QueueCatalog(definitions, separator="_")
    monkeypatch.setattr("queues.queries._CATALOG", SnapshotValue(lambda snapshot: catalog))
    snapshot.forget()
    tasks = [new_task(f"t{number}", "q0001_high") for number in range(TASKS)]
    single_broker.run(enqueue_many(single_broker, tasks))
    for number in range(WORKERS):
        record = replace(RECORD, worker_id=f"w{number:03}", server_id=f"s{number}")
        single_broker.run(write_heartbeat(record, [RUNNING] * 4, now_ns=single_broker.now_ns()))
    keep_records(single_broker)


def cpu_time_s(client: Client, path: str) -> float:
    """Return the processor time of a page, without collecting what else the tests' process has."""
    gc.collect()
    gc.disable()
    try:
        started_s = time.thread_time()
        client.get(path)
        return time.thread_time() - started_s
    finally:
        gc.enable()


ROUND_TRIPS = {
    LIST: 3,  # one compares the snapshot, so that a queue just saved elsewhere is listed
    f"{LIST}?q=q19&page=3": 3,
    f"{LIST}?queue=q0001_high": 2,
    change("t777", "q0001_high"): 2,  # the second reads what the task streamed and printed
    f"{LIST}t777/change/": 2,
    f"{LIST}add/": 0,
    "/admin/workers/worker/": 3,
    "/admin/workers/worker/w007/change/": 2,
}


@pytest.mark.usefixtures("stopped_clock", "many_objects")
def test_the_cost_of_a_page_does_not_grow_with_the_number_of_objects(
    operator: Client, monkeypatch: pytest.MonkeyPatch, django_assert_max_num_queries
) -> None:
    now_s = clock.monotonic_s()
    monkeypatch.setattr(clock, "monotonic_s", lambda: now_s)  # what is compared once a second is no page's cost
    calls = count_round_trips(monkeypatch, get_broker())

    for path, round_trips in ROUND_TRIPS.items():
        assert operator.get(path).status_code == 200  # the templates are read and the scripts known
        snapshot.get_snapshot(max_age_s=0)
        calls.clear()
        with django_assert_max_num_queries(12):
            assert operator.get(path).status_code == 200
        assert len(calls) <= round_trips, (path, calls)
        assert min(cpu_time_s(operator, path) for _ in range(3)) < 0.5, path
