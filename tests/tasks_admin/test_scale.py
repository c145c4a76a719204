"""What the pages of tasks and workers cost where there is a lot: round trips, queries, and time of the processor."""

import time
from dataclasses import replace

import pytest
from django.test import Client

from queues.names import QueueCatalog
from runqy import clock
from runqy.broker.broker import Broker
from runqy.broker.enqueue_batch import enqueue_many
from runqy.broker.heartbeats import beat
from runqy.connection import get_broker
from runqy.publication import snapshot
from runqy.publication.derived import DerivedValue
from tests.queues.samples import definition
from tests.support.tasks import new_task
from tests.support.workers import RECORD, RUNNING
from tests.tasks_admin.reading import LIST, change

QUEUES, WORKERS, TASKS = 2_000, 200, 20_000


@pytest.fixture
def lot(single_broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let there be many queues, with sub-queues, many workers, and many tasks in one queue."""
    definitions = [definition(f"q{number:04}", "high:10", "low:3") for number in range(QUEUES)]
    catalog = QueueCatalog(definitions, separator="_")
    monkeypatch.setattr("queues.queries._CATALOG", DerivedValue(lambda snapshot: catalog))
    snapshot.forget()
    for number in range(WORKERS):
        record = replace(RECORD, worker_id=f"w{number:03}", server_id=f"s{number}")
        single_broker.run(beat(record, [RUNNING] * 4, now_ns=single_broker.now_ns()))
    tasks = [new_task(f"t{number}", "q0001_high") for number in range(TASKS)]
    single_broker.run(enqueue_many(tasks))


@pytest.mark.usefixtures("lot")
@pytest.mark.parametrize(
    ("path", "round_trips"),
    [
        (LIST, 3),  # one compares the snapshot, so that a queue just saved elsewhere is listed
        (f"{LIST}?q=q19&page=3", 3),
        (f"{LIST}?queue=q0001_high", 2),
        (change("t777", "q0001_high"), 1),
        (f"{LIST}t777/change/", 1),
        (f"{LIST}add/", 0),
        ("/admin/workers/worker/", 3),
        ("/admin/workers/worker/w007/change/", 2),
    ],
)
def test_no_page_costs_more_where_there_is_more(
    operator: Client,
    monkeypatch: pytest.MonkeyPatch,
    django_assert_max_num_queries,
    path: str,
    round_trips: int,
) -> None:
    assert operator.get(path).status_code == 200  # the templates are read and the scripts known
    now_s = clock.monotonic_s()
    monkeypatch.setattr(clock, "monotonic_s", lambda: now_s)  # what is compared once a second is no page's cost
    snapshot.get_snapshot(max_age_s=0)
    trips: list[int] = []
    link = get_broker().link
    execute = link.execute
    monkeypatch.setattr(link, "execute", lambda commands: trips.append(len(commands)) or execute(commands))

    started = time.thread_time()
    with django_assert_max_num_queries(12):
        assert operator.get(path).status_code == 200
    spent_s = time.thread_time() - started

    assert len(trips) <= round_trips, trips
    assert spent_s < 0.5
