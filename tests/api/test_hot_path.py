"""What a request may cost: no database, no session, one round trip to Redis."""

import json

import pytest

from queues.models import Source
from queues.operations import save_queue
from runqy.broker.links import SingleLink
from runqy.connection import get_broker
from runqy.publication.snapshot import get_snapshot
from tests.api.client import ApiClient
from tests.queues.samples import spec
from tests.support.environment import CLIENT_KEY


class CountingLink(SingleLink):
    """Counts round trips."""

    trips = 0

    def execute(self, commands):  # type: ignore[no-untyped-def]
        """Count, then do it."""
        self.trips += 1
        return super().execute(commands)


@pytest.fixture
def trips(configuration: None, monkeypatch: pytest.MonkeyPatch) -> CountingLink:
    """Return a counter of round trips; the configuration is known and the scripts are loaded."""
    save_queue(spec=spec("simple"), source=Source.API)
    ApiClient(CLIENT_KEY).post("/queue/add", {"queue": "simple", "data": {}})
    monkeypatch.setattr("runqy.publication.snapshot.clock.monotonic_s", lambda: 0.0)
    get_snapshot(max_age_s=0)
    broker = get_broker()
    link = CountingLink(broker.client)  # type: ignore[arg-type]
    monkeypatch.setattr(broker, "link", link)
    return link


def test_enqueueing_takes_one_round_trip_and_asks_no_database(
    trips: CountingLink, django_assert_num_queries: pytest.FixtureRequest
) -> None:
    with django_assert_num_queries(0):  # type: ignore[operator]
        answer = ApiClient(CLIENT_KEY).post("/queue/add", {"queue": "simple", "data": {"n": 1}})

    assert answer.status_code == 200
    assert trips.trips == 1
    assert not answer.cookies


@pytest.mark.parametrize("options", [{}, {"unique_key": "u"}])
def test_enqueueing_once_takes_one_round_trip_too(trips: CountingLink, options: dict[str, str]) -> None:
    body = {"queue": "simple", "data": {}, **options}

    answer = ApiClient(CLIENT_KEY).post("/queue/add", body, **{"Idempotency-Key": "k1"})

    assert answer.status_code == 200
    assert trips.trips == 1


@pytest.mark.parametrize(("jobs", "expected"), [(500, 1), (501, 2)])
def test_a_batch_takes_a_round_trip_for_every_500_tasks(trips: CountingLink, jobs: int, expected: int) -> None:
    answer = ApiClient(CLIENT_KEY).post("/queue/add-batch", {"queue": "simple", "jobs": [{}] * jobs})

    assert answer.status_code == 200
    assert trips.trips == expected


def test_reading_takes_one_round_trip_and_asks_no_database(
    trips: CountingLink, django_assert_num_queries: pytest.FixtureRequest
) -> None:
    added = ApiClient(CLIENT_KEY).post("/queue/add", {"queue": "simple", "data": {}})
    task_id = json.loads(added.content)["info"]["id"]
    trips.trips = 0

    with django_assert_num_queries(0):  # type: ignore[operator]
        answer = ApiClient(CLIENT_KEY).get(f"/queue/{task_id}")

    assert answer.status_code == 200
    assert trips.trips == 1
