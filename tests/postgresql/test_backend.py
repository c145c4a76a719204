"""Connections to a PostgreSQL that is slow or silent: every wait ends, and the next one is spared."""

import random
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

import psycopg
import pytest
from django.db import OperationalError, ProgrammingError
from django.db.utils import ConnectionHandler
from pytest_django.plugin import DjangoDbBlocker

from runqy import clock
from runqy.concurrency import circuit_breaker
from runqy.concurrency.bulkhead import Bulkhead
from runqy.concurrency.circuit_breaker import CircuitBreaker
from runqy.config.connection_urls import parse_database_url
from runqy.postgresql.base import MAX_PROBING, DatabaseWrapper
from tests.support.bad_network import BadNetwork, FaultMode
from tests.support.postgresql import PostgresqlServer, find_programs
from tests.support.waiting import PATIENCE_S, wait_until

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
def breaker(monkeypatch: pytest.MonkeyPatch) -> CircuitBreaker:
    """Return the circuit breaker of all connections; no other test has just found the server silent."""
    breaker = CircuitBreaker((psycopg.OperationalError,))
    monkeypatch.setattr(DatabaseWrapper, "_breaker", breaker)
    return breaker


@pytest.fixture
def connect(
    django_db_blocker: DjangoDbBlocker, breaker: CircuitBreaker, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Connect]:
    """Return what gives a connection to a port, not open yet."""
    monkeypatch.setattr(DatabaseWrapper, "_bulkhead", Bulkhead(MAX_PROBING))
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


@pytest.mark.parametrize(("act", "limits"), [(check, "?connect_timeout=2"), (select, "?statement_timeout=1")])
def test_after_one_wait_in_vain_nothing_waits_on_another_connection(
    network: BadNetwork, connect: Connect, act: Callable[..., None], limits: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(circuit_breaker, "OPEN_S", 30.0)  # a slow machine may take a second between two calls
    first, other = connect(network.port, limits), connect(network.port, "?connect_timeout=60&statement_timeout=60")
    select(first)
    session = ask(other, "SELECT pg_backend_pid()")

    network.mode = FaultMode.SILENT
    fail(lambda: act(first))
    began_s = time.monotonic()
    fail(lambda: select(other))
    took_s = time.monotonic() - began_s
    network.mode = FaultMode.FINE

    assert took_s < 30, f"it took {took_s:.1f} s"
    monkeypatch.setattr(clock, "monotonic_s", lambda: time.monotonic() + 30.0)
    wait_until_used_again(other)
    assert ask(other, "SELECT pg_backend_pid()") == session


def lose(connection: DatabaseWrapper, network: BadNetwork) -> None:
    """Lose a connection before it is used."""
    network.reset()
    fail(lambda: select(connection))


def close(connection: DatabaseWrapper, _: BadNetwork) -> None:
    """Close a connection without its wrapper's knowledge."""
    connection.connection.close()


@pytest.mark.parametrize("end", [lose, close])
def test_a_connection_that_ended_before_shows_nothing_about_a_silent_server(
    network: BadNetwork,
    connect: Connect,
    breaker: CircuitBreaker,
    monkeypatch: pytest.MonkeyPatch,
    end: Callable[..., None],
) -> None:
    ended, silent, other = (connect(network.port, "?statement_timeout=1") for _ in range(3))
    for connection in (ended, silent):
        select(connection)
    end(ended, network)
    for connection in (silent, other):
        connection.close()
        wait_until_used_again(connection)

    monkeypatch.setattr(circuit_breaker, "OPEN_S", 30.0)
    network.mode = FaultMode.SILENT
    fail(lambda: select(silent))
    monkeypatch.setattr(clock, "monotonic_s", lambda: time.monotonic() + 30.0)
    fail(lambda: select(ended))
    fail(lambda: commit(ended))
    assert not ended.is_usable()

    assert breaker.is_open
    network.mode = FaultMode.FINE
    wait_until_used_again(other)


def test_a_failed_transaction_is_rolled_back_where_the_server_responds_again(
    network: BadNetwork, connect: Connect, breaker: CircuitBreaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = connect(network.port)
    failed.set_autocommit(False)
    with pytest.raises(ProgrammingError):
        ask(failed, "SELECT nothing_of_that_name")
    breaker.open()
    monkeypatch.setattr(clock, "monotonic_s", lambda: time.monotonic() + circuit_breaker.OPEN_S)

    assert not failed.is_usable()
    breaker.open()
    monkeypatch.setattr(clock, "monotonic_s", lambda: time.monotonic() + 2 * circuit_breaker.OPEN_S)
    failed.rollback()

    assert not breaker.is_open
    assert ask(failed, "SELECT 1") == 1


def test_a_failed_transaction_does_not_hide_that_the_server_is_silent(
    network: BadNetwork, connect: Connect, breaker: CircuitBreaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = connect(network.port, "?connect_timeout=2")
    failed.set_autocommit(False)
    with pytest.raises(ProgrammingError):
        ask(failed, "SELECT nothing_of_that_name")
    breaker.open()
    monkeypatch.setattr(clock, "monotonic_s", lambda: time.monotonic() + circuit_breaker.OPEN_S)

    network.mode = FaultMode.SILENT
    fail(failed.rollback)

    assert breaker.is_open


def wait_until_refused(waiting: set[Future[None]]) -> set[Future[None]]:
    """Wait until all are refused but those that may wait for the server, and return these."""
    while len(waiting) > MAX_PROBING:
        refused, waiting = wait(waiting, PATIENCE_S, FIRST_COMPLETED)
        assert {type(future.exception()) for future in refused} == {OperationalError}
    return waiting


def test_few_requests_wait_on_connections_that_went_silent(network: BadNetwork, connect: Connect) -> None:
    connections = [connect(network.port, "?connect_timeout=60") for _ in range(4 * MAX_PROBING)]
    for connection in connections:
        select(connection)

    network.mode = FaultMode.SILENT
    with ThreadPoolExecutor(len(connections)) as pool:
        waiting = wait_until_refused({pool.submit(check, connection) for connection in connections})
        network.mode = FaultMode.FINE

        assert [future.result(30) for future in waiting] == [None] * MAX_PROBING


def test_few_threads_wait_for_a_server_that_does_not_speak(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuit_breaker, "OPEN_S", 60.0)  # a slow machine may take a second between two calls
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent, ThreadPoolExecutor(4) as pool:
        port = silent.getsockname()[1]

        def try_to_connect() -> None:
            connect(port, "?connect_timeout=60&sslmode=disable").ensure_connection()

        waiting = wait_until_refused({pool.submit(try_to_connect) for _ in range(4)})
        for _ in waiting:
            silent.accept()[0].close()
        assert {type(future.exception(PATIENCE_S)) for future in waiting} == {OperationalError}
        for _ in range(10):
            fail(try_to_connect)

        silent.setblocking(False)
        with pytest.raises(BlockingIOError):
            silent.accept()


def test_a_server_that_speaks_again_is_used_again(network: BadNetwork, connect: Connect) -> None:
    connection = connect(network.port, "?connect_timeout=2")
    network.mode = FaultMode.SILENT
    fail(connection.ensure_connection)

    network.mode = FaultMode.FINE

    wait_until_used_again(connection)
