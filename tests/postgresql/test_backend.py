"""Connections to a PostgreSQL that is slow or silent: every wait ends, and a request waits once."""

import random
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from django.db import OperationalError, ProgrammingError
from django.db.utils import ConnectionHandler
from pytest_django.plugin import DjangoDbBlocker

from runqy.core.database.postgresql import base
from runqy.core.database.postgresql.base import DatabaseWrapper
from runqy.core.environment.connection_urls import parse_database_url
from tests.support.bad_network import BadNetwork, FaultMode
from tests.support.postgresql import PostgresqlServer, find_programs
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.slow,
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
def connect(django_db_blocker: DjangoDbBlocker) -> Iterator[Connect]:
    """Return what gives a connection to a port, not open yet."""
    opened: list[DatabaseWrapper] = []

    def connect(port: int, query: str = "") -> DatabaseWrapper:
        settings = parse_database_url(f"postgresql://postgres@127.0.0.1:{port}/postgres{query}")
        connection: Any = ConnectionHandler({"default": settings})["default"]
        connection.inc_thread_sharing()
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


def fail(act: Callable[[], Any]) -> OperationalError:
    """Wait until something fails as it does without a database, and return the error."""
    with pytest.raises(OperationalError) as failure:
        act()
    return failure.value


def test_the_statement_timeout_is_passed_to_the_server(server: PostgresqlServer, connect: Connect) -> None:
    default, changed = connect(server.port), connect(server.port, "?statement_timeout=1m&options=-c%20jit%3Doff")

    assert ask(default, "SHOW statement_timeout") == "10s"
    assert (ask(changed, "SHOW statement_timeout"), ask(changed, "SHOW jit")) == ("1min", "off")


def test_a_statement_that_takes_too_long_is_ended_by_the_server(server: PostgresqlServer, connect: Connect) -> None:
    connection = connect(server.port, "?statement_timeout=1")

    error = fail(lambda: ask(connection, "SELECT pg_sleep(60)"))

    assert isinstance(error.__cause__, psycopg.errors.QueryCanceled)
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


def check(connection: DatabaseWrapper) -> None:
    """Begin a request, as Django does, on a connection that an earlier one has used."""
    connection.close_if_unusable_or_obsolete()
    select(connection)


def wait_until_used_again(connection: DatabaseWrapper) -> None:
    """Wait until statements succeed again."""

    def is_used() -> bool:
        try:
            select(connection)
        except OperationalError:
            return False
        return True

    wait_until(is_used)


@pytest.mark.parametrize("act", [select, commit])
def test_a_wait_for_a_silent_server_ends(network: BadNetwork, connect: Connect, act: Callable[..., None]) -> None:
    connection = connect(network.port, "?statement_timeout=1")
    connection.set_autocommit(False)
    select(connection)

    network.mode = FaultMode.SILENT
    fail(lambda: act(connection))
    network.mode = FaultMode.FINE
    connection.close()

    wait_until_used_again(connection)


def test_the_wait_for_rows_of_a_server_side_cursor_ends(network: BadNetwork, connect: Connect) -> None:
    connection = connect(network.port, "?statement_timeout=1")
    with connection.chunked_cursor() as cursor:
        cursor.execute("SELECT generate_series(1, 100000)")
        assert cursor.fetchmany(2) == [(1,), (2,)]

        network.mode = FaultMode.SILENT
        fail(lambda: cursor.fetchmany(2))


def test_a_connection_whose_server_went_silent_is_not_usable(network: BadNetwork, connect: Connect) -> None:
    connection = connect(network.port, "?connect_timeout=2&statement_timeout=60")
    select(connection)

    network.mode = FaultMode.SILENT
    began_s = time.monotonic()

    assert not connection.is_usable()
    assert time.monotonic() - began_s < 30, "it is checked for as long as a statement may take"


class Attempts:
    """Counts attempts to connect."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        connect = psycopg.connect

        def count(*args: Any, **kwargs: Any) -> Any:
            self.count += 1
            return connect(*args, **kwargs)

        monkeypatch.setattr(psycopg, "connect", count)


@pytest.mark.parametrize(("act", "limits"), [(check, "?connect_timeout=2"), (select, "?statement_timeout=1")])
def test_a_request_waits_once_for_a_silent_server(
    network: BadNetwork, connect: Connect, act: Callable[..., None], limits: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "SPARED_S", 60.0)  # a slow machine may take a second between two calls
    connection, attempts = connect(network.port, limits), Attempts(monkeypatch)
    select(connection)

    network.mode = FaultMode.SILENT
    fail(lambda: act(connection))
    connection.close()
    for _ in range(3):
        fail(lambda: select(connection))

    assert attempts.count == 1, "the first one, before the server went silent"


def test_a_request_waits_once_for_a_server_that_does_not_speak(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "SPARED_S", 60.0)
    attempts = Attempts(monkeypatch)
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        connection = connect(silent.getsockname()[1], "?connect_timeout=2&sslmode=disable")
        for _ in range(3):
            fail(connection.ensure_connection)

    assert attempts.count == 1


def test_a_thread_that_waits_in_vain_stops_no_other_one(network: BadNetwork, connect: Connect) -> None:
    first, other = connect(network.port, "?connect_timeout=2"), connect(network.port)
    select(first)

    network.mode = FaultMode.SILENT
    fail(lambda: check(first))
    network.mode = FaultMode.FINE

    select(other)


def lose(connection: DatabaseWrapper, network: BadNetwork) -> None:
    """Lose a connection before it is used."""
    network.reset()
    fail(lambda: select(connection))


def close(connection: DatabaseWrapper, _: BadNetwork) -> None:
    """Close a connection without its wrapper's knowledge."""
    connection.connection.close()


@pytest.mark.parametrize("end", [lose, close])
def test_a_connection_that_ended_before_is_replaced_at_once(
    network: BadNetwork, connect: Connect, monkeypatch: pytest.MonkeyPatch, end: Callable[..., None]
) -> None:
    monkeypatch.setattr(base, "SPARED_S", 60.0)
    monkeypatch.setattr(base, "SILENT_S", 30.0)  # a slow machine may take a while to notice
    connection = connect(network.port)
    select(connection)

    end(connection, network)

    assert not connection.is_usable()
    connection.close()
    select(connection)


def test_a_failed_transaction_is_rolled_back(network: BadNetwork, connect: Connect) -> None:
    failed = connect(network.port)
    failed.set_autocommit(False)
    with pytest.raises(ProgrammingError):
        ask(failed, "SELECT nothing_of_that_name")

    assert not failed.is_usable()
    failed.rollback()

    assert ask(failed, "SELECT 1") == 1


def test_a_server_that_speaks_again_is_used_again(network: BadNetwork, connect: Connect) -> None:
    connection = connect(network.port, "?connect_timeout=2")
    network.mode = FaultMode.SILENT
    fail(connection.ensure_connection)

    network.mode = FaultMode.FINE

    wait_until_used_again(connection)
