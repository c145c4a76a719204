"""However much there is, a page asks the database and Redis as often as with little."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from django.apps import apps
from django.contrib.auth.models import Group, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from demo.crowd import crowd
from runqy.broker.broker import Broker
from runqy.connection import get_broker
from runqy.staff.roles import grant_roles
from tests.staff.crowd_pages import pages_in_crowd

pytestmark = pytest.mark.usefixtures("configuration")

MOST_QUERIES = 12
_AROUND = {"BEGIN", "COMMIT", "SAVEPOINT", "RELEASE"}
"""Begins and ends transactions; asks nothing."""
MOST_TRIPS = 6
"""For as many kinds of data: the configuration's digest, its documents, the names of queues, counts, workers, tasks."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a page asked for."""

    queries: int
    trips: int


@pytest.fixture
def trips(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Count the round trips of the server's broker."""
    link, made = get_broker().link, []
    execute = link.execute
    monkeypatch.setattr(link, "execute", lambda commands: made.append(1) or execute(commands))
    return made


def cost(client: Client, path: str, trips: list[int]) -> Cost:
    """Look at a page twice, for the first time may find out what is kept afterwards, and tell what the second took."""
    client.get(path)
    trips.clear()
    with CaptureQueriesContext(connection) as queries:
        answer = client.get(path)
        if answer.streaming:
            b"".join(answer.streaming_content)
    assert answer.status_code in (200, 302), (path, answer.status_code)
    asked = [query for query in queries if query["sql"].split()[0] not in _AROUND]
    return Cost(queries=len(asked), trips=len(trips))


def test_no_page_asks_more_often_the_more_there_is(single_broker: Broker, trips: list[int]) -> None:
    grant_roles(apps)
    crowd(single_broker)
    user = User.objects.create_user("somebody", is_staff=True)
    user.groups.add(Group.objects.get(name="admin"))
    client = Client()
    client.force_login(user)

    costs = {name: cost(client, path, trips) for name, path in pages_in_crowd().items()}

    assert {name: cost for name, cost in costs.items() if cost.queries > MOST_QUERIES or cost.trips > MOST_TRIPS} == {}
