"""Nobody's endpoints keep the messages of others waiting."""

import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator

import pytest
from django.db import connection

from tests.support.database import database_variables
from tests.support.waiting import wait_until
from tests.webhooks.receiver import LOOPBACK, Receiver
from tests.webhooks.test_sender import EVENT, add_endpoint, add_messages
from vaults.sealed_secrets import store_secret
from webhooks.models import Delivery, Endpoint
from webhooks.slots import DueTarget, Pool

SLOTS, ENDPOINTS = 200, 300
SENDER = f"""
import django
django.setup()
from webhooks import sender
sender.IN_FLIGHT_ALL, sender.TIMEOUT_S = {SLOTS}, 3600
sender.Sender().run(3600)
"""


@pytest.fixture
def slow_url() -> Iterator[str]:
    """A receiver that accepts connections, and never responds."""
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as server:
        yield f"http://localhost:{server.getsockname()[1]}/"


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()


def add_slow_endpoints(url: str, makers: int) -> None:
    """Add endpoints with messages to each, more than all processes send at once."""
    endpoints = [
        Endpoint(
            url=url, events=[EVENT], secret=store_secret("webhook secret", "whsec_aaaa"), created_by=f"u{n % makers}"
        )
        for n in range(ENDPOINTS)
    ]
    for endpoint in Endpoint.objects.bulk_create(endpoints):
        add_messages(endpoint, "t1", "t2", "t3")


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("configuration")
@pytest.mark.parametrize(
    ("makers", "in_flight"),
    [
        pytest.param(1, SLOTS // 4, marks=pytest.mark.release),
        (30, SLOTS * 19 // 20),
    ],
)
def test_a_message_arrives_beside_slow_endpoints_that_have_all_slots(
    receiver: Receiver, slow_url: str, processes: list[subprocess.Popen[bytes]], makers: int, in_flight: int
) -> None:
    victim = add_endpoint(receiver).row
    add_slow_endpoints(slow_url, makers)
    variables = {"DJANGO_SETTINGS_MODULE": "runqy.settings", "RUNQY_WEBHOOK_NETWORKS": ",".join(map(str, LOOPBACK))}
    connection.close()
    for _ in range(2):
        command = [sys.executable, "-c", SENDER]
        processes.append(subprocess.Popen(command, env=os.environ | variables | database_variables()))
    claimed = Delivery.objects.exclude(slot=None)
    wait_until(lambda: claimed.count() == 2 * in_flight)

    add_messages(victim, "urgent")

    wait_until(lambda: receiver.requests)
    wait_until(lambda: victim.deliveries.get().delivered_at)
    assert claimed.count() == 2 * in_flight


def allot(pool: Pool, *targets: DueTarget, at_most: int = 1000) -> dict[str, int]:
    """Allot and begin attempts; return how many each target has got."""
    allotted = pool.allot(targets, lambda target: target.limit, at_most=at_most)
    for target, count in allotted.items():
        for _ in range(count):
            pool.add(target)
    return {target.target: count for target, count in allotted.items()}


def due(name: str, maker: str, limit: int = 16) -> DueTarget:
    return DueTarget(target=name, maker=maker, limit=limit, is_alerts=False)


def test_no_maker_has_more_than_a_quarter_and_no_target_more_than_its_own() -> None:
    targets = [due(f"a{number}", "ann") for number in range(30)]

    got = allot(Pool(100), *targets, due("b", "ben", limit=3))

    assert got.pop("b") == 3
    assert Counter(got.values()) == {1: 25}


def test_the_maker_and_the_target_with_the_fewest_in_flight_are_next() -> None:
    pool = Pool(100)
    allot(pool, *(due(f"a{number}", "ann") for number in range(5)))

    assert allot(pool, due("a0", "ann"), due("b1", "ben"), due("b2", "ben"), at_most=2) == {"b1": 1, "b2": 1}


def test_the_last_tenth_is_for_targets_and_makers_without_any() -> None:
    pool, targets = Pool(100), [due(f"t{number}", f"m{number % 4}", 50) for number in range(8)]
    assert sum(allot(pool, *targets).values()) == 90
    assert allot(pool, *targets) == {}
    others = [due(f"u{number}", f"m{number % 4}") for number in range(8)]
    pool.remove(targets[0])
    assert sum(allot(pool, *others).values()) == 6
    assert allot(pool, *others) == {}

    assert [*allot(pool, *(due(f"v{number}", f"n{number}") for number in range(8))).values()] == [1] * 5
