"""What a request may cost: no database, no session, one round trip to Redis."""

import json
from collections.abc import Sequence
from threading import current_thread

import pytest

from queues.models import QueueSource
from queues.operations import save_queue
from runqy.broker.connection.async_node import AsyncNode
from runqy.broker.replies import Reply
from runqy.broker.scripts import Command
from runqy.configuration.snapshot import get_snapshot
from runqy.core.concurrency.event_loop import THREAD_NAME
from tests.api.client import ApiClient
from tests.queues.samples import spec
from tests.support.environment import CLIENT_KEY


class RoundTrips:
    """Counts round trips to Redis."""

    count = 0


@pytest.fixture
def round_trips(configuration: None, each_plane: str, monkeypatch: pytest.MonkeyPatch) -> RoundTrips:
    """Return a counter of round trips; the configuration is known and the scripts are loaded."""
    save_queue(spec=spec("simple"), source=QueueSource.API)
    ApiClient(CLIENT_KEY).post("/queue/add", {"queue": "simple", "data": {}})
    monkeypatch.setattr("runqy.configuration.snapshot.clock.monotonic_s", lambda: 0.0)
    get_snapshot(max_age_s=0)
    counted, execute = RoundTrips(), AsyncNode.execute

    async def count(node: AsyncNode, commands: Sequence[Command], *, is_bulky: bool) -> list[Reply]:
        # The data plane has a loop of its own.
        if (current_thread().name == THREAD_NAME) is (each_plane == "viewsets"):
            counted.count += 1
        return await execute(node, commands, is_bulky=is_bulky)

    monkeypatch.setattr(AsyncNode, "execute", count)
    return counted


def test_enqueueing_takes_one_round_trip_and_no_query(
    round_trips: RoundTrips, django_assert_num_queries: pytest.FixtureRequest
) -> None:
    with django_assert_num_queries(0):  # type: ignore[operator]
        response = ApiClient(CLIENT_KEY).post("/queue/add", {"queue": "simple", "data": {"n": 1}})

    assert response.status_code == 200
    assert round_trips.count == 1
    assert not response.cookies


@pytest.mark.parametrize("options", [{}, {"unique_key": "u"}])
def test_enqueueing_with_an_idempotency_key_takes_one_round_trip(
    round_trips: RoundTrips, options: dict[str, str]
) -> None:
    body = {"queue": "simple", "data": {}, **options}

    response = ApiClient(CLIENT_KEY).post("/queue/add", body, **{"Idempotency-Key": "k1"})

    assert response.status_code == 200
    assert round_trips.count == 1


@pytest.mark.parametrize(("jobs", "expected"), [(500, 1), (501, 2)])
def test_a_batch_takes_a_round_trip_for_every_500_tasks(round_trips: RoundTrips, jobs: int, expected: int) -> None:
    response = ApiClient(CLIENT_KEY).post("/queue/add-batch", {"queue": "simple", "jobs": [{}] * jobs})

    assert response.status_code == 200
    assert round_trips.count == expected


def test_reading_takes_one_round_trip_and_no_query(
    round_trips: RoundTrips, django_assert_num_queries: pytest.FixtureRequest
) -> None:
    added = ApiClient(CLIENT_KEY).post("/queue/add", {"queue": "simple", "data": {}})
    task_id = json.loads(added.content)["info"]["id"]
    round_trips.count = 0

    with django_assert_num_queries(0):  # type: ignore[operator]
        response = ApiClient(CLIENT_KEY).get(f"/queue/{task_id}")

    assert response.status_code == 200
    assert round_trips.count == 1
