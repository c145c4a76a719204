"""Database connections are looked after between the requests of threads that have one, and only of those."""

import threading

import pytest
from django.core.cache import close_caches
from django.core.signals import request_finished, request_started
from django.db import close_old_connections, connection, reset_queries

from runqy.api import database
from tests.api.wsgi import call


@pytest.fixture
def closings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of threads whose connections were looked after."""
    names: list[str] = []
    monkeypatch.setattr(database, "close_old_connections", lambda: names.append(threading.current_thread().name))
    return names


def serve(name: str, *, uses_database: bool) -> None:
    """Do on a thread what a server's thread does for two requests, the first of which may use the database."""

    def requests() -> None:
        request_started.send(sender=object, environ={})
        if uses_database:
            connection.ensure_connection()
        request_finished.send(sender=object)
        request_started.send(sender=object, environ={})
        request_finished.send(sender=object)
        connection.close()

    thread = threading.Thread(target=requests, name=name)
    thread.start()
    thread.join()


@pytest.mark.django_db
def test_a_request_of_the_api_looks_after_a_connection_before_and_after(closings: list[str]) -> None:
    def request() -> None:
        connection.ensure_connection()
        call("GET", "/livez")
        connection.close()

    thread = threading.Thread(target=request, name="api")
    thread.start()
    thread.join()

    assert closings == ["api"] * 2


@pytest.mark.django_db
def test_a_thread_whose_connection_was_closed_has_no_more_to_do(closings: list[str], monkeypatch) -> None:
    def close() -> None:
        closings.append("closed")
        close_old_connections()

    monkeypatch.setattr(database, "close_old_connections", close)

    serve("admin", uses_database=True)

    assert closings == ["closed"]


@pytest.mark.django_db
def test_a_thread_that_has_a_connection_looks_after_it_from_then_on(closings: list[str]) -> None:
    serve("admin", uses_database=True)

    assert closings == ["admin"] * 3


def test_a_thread_without_a_connection_does_nothing(closings: list[str]) -> None:
    serve("api", uses_database=False)

    assert closings == []


def test_django_does_not_look_for_connections_itself() -> None:
    database.close_only_what_is_open()  # once more: Django's test client puts the receivers back that it took away

    for signal in (request_started, request_finished):
        receivers = signal._live_receivers(None)[0]
        assert not {reset_queries, close_old_connections, close_caches} & set(receivers)
