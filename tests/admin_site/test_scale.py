"""The number of queries and round trips of a page does not depend on the number of objects."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from runqy import clock
from runqy.broker.broker import Broker
from runqy.redis_connection import get_broker
from tests.admin_site.populated_pages import populated_pages
from tests.support.links import count_round_trips
from tests.support.staff import staff_client
from tests.support.workers import keep_records
from tools.demo.load_fixture import load_fixture

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("configuration")]

MAX_QUERIES = 12
MORE_QUERIES = {"queues_queue_change": 17, "auth_user_delete": 13}
"""The first shows the queue with its vaults, sub-queues, live release, alerts, snooze, deletion and last hour."""
_AROUND = {"BEGIN", "COMMIT", "SAVEPOINT", "RELEASE"}
"""Statements that begin and end transactions."""
MAX_ROUND_TRIPS = 6
"""For as many kinds of data: the configuration's digest, its documents, the names of queues, counts, workers, tasks."""

MORE_ROUND_TRIPS = {"tasks_task_search": 9}
"""It looks for a task by its id, and reads at most 2,000 tasks of each state, 1,000 in a round trip."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The queries and round trips of a page."""

    queries: int
    round_trips: int


@pytest.fixture
def round_trips(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Count the round trips of the server's broker."""
    return count_round_trips(monkeypatch, get_broker())


def cost(client: Client, path: str, round_trips: list[int]) -> Cost:
    """Request a page twice and return the cost of the second time, as the first may fill caches."""
    client.get(path)
    round_trips.clear()
    with CaptureQueriesContext(connection) as queries:
        response = client.get(path)
        if response.streaming:
            b"".join(response.streaming_content)
    assert response.status_code in (200, 204, 302), (path, response.status_code)
    counted = [query for query in queries if query["sql"].split()[0] not in _AROUND]
    return Cost(queries=len(counted), round_trips=len(round_trips))


def test_queries_of_a_page_do_not_grow_with_the_number_of_objects(
    single_broker: Broker, round_trips: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    load_fixture(single_broker, queues=60, records=300)  # far more than a page may cost
    client = staff_client("admin")
    keep_records(single_broker)
    now_s, now_ns, monotonic_ns = clock.monotonic_s(), clock.now_ns(), clock.monotonic_ns()
    monkeypatch.setattr(clock, "now_ns", lambda: now_ns)
    monkeypatch.setattr(clock, "monotonic_ns", lambda: monotonic_ns)
    monkeypatch.setattr(clock, "monotonic_s", lambda: now_s)  # what is read again when it is old is no page's cost

    costs = {name: cost(client, path, round_trips) for name, path in populated_pages().items()}

    assert {
        name: cost
        for name, cost in costs.items()
        if cost.queries > MORE_QUERIES.get(name, MAX_QUERIES)
        or cost.round_trips > MORE_ROUND_TRIPS.get(name, MAX_ROUND_TRIPS)
    } == {}
