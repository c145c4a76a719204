"""Connections to a PostgreSQL that is slow or silent: every wait ends, and the next one is spared."""

import random
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from django.db import OperationalError
from django.db.utils import ConnectionHandler
from pytest_django.plugin import DjangoDbBlocker

from runqy.circuit_breaker import CircuitBreaker
from runqy.connection_urls import parse_database_url
from runqy.postgresql.base import GRACE_S, DatabaseWrapper
from tests.support.bad_network import BadNetwork, FaultMode
from tests.support.postgresql import PostgresqlServer, find_programs

pytestmark = [
    pytest.mark.postgresql,
    pytest.mark.skipif(find_programs() is None, reason="PostgreSQL's programs are not installed"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresqlServer]:
    """Return a PostgreSQL."""
    programs = find_programs()
    assert programs is not None
    server = PostgresqlServer(programs).start()
    yield server
    server.stop()


@pytest.fixture
def network(server: PostgresqlServer) -> Iterator[BadNetwork]:
    """Return the way to that PostgreSQL."""
    network = BadNetwork(server.port, random.Random(0))
    yield network
    network.close()


Connect = Callable[..., DatabaseWrapper]


@pytest.fixture
def connect(django_db_blocker: DjangoDbBlocker, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connect]:
    """Return what gives a connection to a port, not open yet; no other test has just found it silent."""
    monkeypatch.setattr(DatabaseWrapper, "_breaker", CircuitBreaker((psycopg.OperationalError,)))
    opened: list[DatabaseWrapper] = []

    def connect(port: int, query: str = "") -> DatabaseWrapper:
        settings = parse_database_url(f"postgresql://postgres@127.0.0.1:{port}/postgres{query}")
        connection: Any = ConnectionHandler({"default": settings})["default"]
        opened.append(connection)
        return opened[-1]

    with django_db_blocker.unblock():
        yield connect
        for connection in opened:
            if connection.connection is not None:
                connection.close()


def ask(connection: DatabaseWrapper, sql: str) -> Any:
    """Return the first value of the first row."""
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchone()[0]


def failing_s(act: Callable[[], Any]) -> float:
    """Return how long it took until something failed as it does without a database."""
    began_s = time.monotonic()
    with pytest.raises(OperationalError):
        act()
    return time.monotonic() - began_s


def test_the_statement_timeout_is_passed_to_the_server(server: PostgresqlServer, connect: Connect) -> None:
    default, changed = connect(server.port), connect(server.port, "?statement_timeout=1m&options=-c%20jit%3Doff")

    assert ask(default, "SHOW statement_timeout") == "10s"
    assert (ask(changed, "SHOW statement_timeout"), ask(changed, "SHOW jit")) == ("1min", "off")


def test_a_statement_that_takes_too_long_is_ended_by_the_server(server: PostgresqlServer, connect: Connect) -> None:
    connection = connect(server.port, "?statement_timeout=1")

    took_s = failing_s(lambda: ask(connection, "SELECT pg_sleep(30)"))

    assert took_s < 1 + GRACE_S
    assert ask(connection, "SELECT 1") == 1


def test_migrations_take_as_long_as_they_take(server: PostgresqlServer, connect: Connect) -> None:
    connection = connect(server.port, "?statement_timeout=1")

    connection.prepare_database()

    assert ask(connection, "SHOW statement_timeout") == "0"
    connection.close()
    assert ask(connection, "SHOW statement_timeout") == "0"


def commit(connection: DatabaseWrapper) -> None:
    connection.commit()


def select(connection: DatabaseWrapper) -> None:
    ask(connection, "SELECT 1")


@pytest.mark.parametrize("act", [select, commit])
def test_a_wait_for_a_silent_server_ends(network: BadNetwork, connect: Connect, act: Callable[..., None]) -> None:
    connection = connect(network.port, "?statement_timeout=1")
    connection.set_autocommit(False)
    select(connection)

    network.mode = FaultMode.SILENT
    took_s = failing_s(lambda: act(connection))
    network.mode = FaultMode.FINE
    connection.close()

    assert took_s < 1 + GRACE_S + 1.5, f"it took {took_s:.1f} s"
    assert ask(connection, "SELECT 1") == 1


def test_a_connection_whose_server_went_silent_is_not_usable(network: BadNetwork, connect: Connect) -> None:
    connection = connect(network.port, "?statement_timeout=1")
    select(connection)

    network.mode = FaultMode.SILENT
    began_s = time.monotonic()

    assert not connection.is_usable()
    assert time.monotonic() - began_s < 1 + GRACE_S + 1.5


def test_only_the_first_threads_wait_for_a_server_that_does_not_speak(connect: Connect) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent, ThreadPoolExecutor(4) as pool:
        port = silent.getsockname()[1]

        def take_s(_: int) -> float:
            return failing_s(connect(port, "?connect_timeout=2").ensure_connection)

        first, later = list(pool.map(take_s, range(4))), [take_s(0) for _ in range(10)]

    assert all(2 <= took_s < 4 for took_s in first), first
    assert max(later) < 0.5


def test_a_server_that_speaks_again_is_used_again(network: BadNetwork, connect: Connect) -> None:
    connection = connect(network.port, "?connect_timeout=2")
    network.mode = FaultMode.SILENT
    failing_s(connection.ensure_connection)

    network.mode = FaultMode.FINE
    deadline_s = time.monotonic() + 10
    while connection.connection is None:
        assert time.monotonic() < deadline_s
        try:
            connection.ensure_connection()
        except OperationalError:
            time.sleep(0.05)

    assert ask(connection, "SELECT 1") == 1
