"""What a request may cost: no database, no session, one round trip to Redis."""

import json

import pytest

from queues.models import QueueSource
from queues.operations import save_queue
from runqy.broker.connections import StandaloneConnection
from runqy.config_sync.snapshot import get_snapshot
from runqy.redis_connection import get_broker
from tests.api.client import ApiClient
from tests.queues.samples import spec
from tests.support.environment import CLIENT_KEY


class CountingLink(StandaloneConnection):
    """Counts round trips."""

    round_trips = 0

    def execute(self, commands):  # type: ignore[no-untyped-def]
        """Count, then do it."""
        self.round_trips += 1
        return super().execute(commands)


@pytest.fixture
def round_trips(configuration: None, monkeypatch: pytest.MonkeyPatch) -> CountingLink:
    """Return a counter of round trips; the configuration is known and the scripts are loaded."""
    save_queue(spec=spec("simple"), source=QueueSource.API)
    ApiClient(CLIENT_KEY).post("/queue/add", {"queue": "simple", "data": {}})
    monkeypatch.setattr("runqy.config_sync.snapshot.clock.monotonic_s", lambda: 0.0)
    get_snapshot(max_age_s=0)
    broker = get_broker()
    link = CountingLink(broker.client)  # type: ignore[arg-type]
    monkeypatch.setattr(broker, "connection", link)
    return link


def test_enqueueing_takes_one_round_trip_and_no_query(
    round_trips: CountingLink, django_assert_num_queries: pytest.FixtureRequest
) -> None:
    with django_assert_num_queries(0):  # type: ignore[operator]
        response = ApiClient(CLIENT_KEY).post("/queue/add", {"queue": "simple", "data": {"n": 1}})

    assert response.status_code == 200
    assert round_trips.round_trips == 1
    assert not response.cookies


@pytest.mark.parametrize("options", [{}, {"unique_key": "u"}])
def test_enqueueing_with_an_idempotency_key_takes_one_round_trip(
    round_trips: CountingLink, options: dict[str, str]
) -> None:
    body = {"queue": "simple", "data": {}, **options}

    response = ApiClient(CLIENT_KEY).post("/queue/add", body, **{"Idempotency-Key": "k1"})

    assert response.status_code == 200
    assert round_trips.round_trips == 1


@pytest.mark.parametrize(("jobs", "expected"), [(500, 1), (501, 2)])
def test_a_batch_takes_a_round_trip_for_every_500_tasks(round_trips: CountingLink, jobs: int, expected: int) -> None:
    response = ApiClient(CLIENT_KEY).post("/queue/add-batch", {"queue": "simple", "jobs": [{}] * jobs})

    assert response.status_code == 200
    assert round_trips.round_trips == expected


def test_reading_takes_one_round_trip_and_no_query(
    round_trips: CountingLink, django_assert_num_queries: pytest.FixtureRequest
) -> None:
    added = ApiClient(CLIENT_KEY).post("/queue/add", {"queue": "simple", "data": {}})
    task_id = json.loads(added.content)["info"]["id"]
    round_trips.round_trips = 0

    with django_assert_num_queries(0):  # type: ignore[operator]
        response = ApiClient(CLIENT_KEY).get(f"/queue/{task_id}")

    assert response.status_code == 200
    assert round_trips.round_trips == 1
