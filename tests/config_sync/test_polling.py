"""Web processes take from the database what Redis does not publish."""

import threading
from typing import Any

import pytest
from django.db import OperationalError, connection
from structlog.testing import capture_logs

from runqy.config_sync import polling, snapshot
from runqy.config_sync.documents import DocumentKind
from runqy.config_sync.models import StoredDocument
from runqy.config_sync.polling import DatabasePoller, ensure_started
from runqy.config_sync.snapshot import get_snapshot
from tests.config_sync.support import away, elsewhere, put, remove

pytestmark = pytest.mark.usefixtures("configuration")


def body(name: str = "a") -> bytes | None:
    """Return what the process knows, without I/O."""
    found = snapshot.current_snapshot().find(DocumentKind.QUEUE, name)
    return found.body if found else None


def test_what_another_process_committed_is_known_without_redis(settings: Any) -> None:
    put("a", b"1")
    put("gone")
    get_snapshot()
    settings.REDIS_TARGET = away()
    with elsewhere():
        put("a", b"2")
        remove("gone")

    DatabasePoller().poll()

    assert body() == b"2"
    assert body("gone") is None


def test_one_query_reads_only_what_is_newer(django_assert_num_queries: Any) -> None:
    put("a", b"1")
    poller = DatabasePoller()
    poller.poll()
    with elsewhere():
        put("b", b"2")

    with django_assert_num_queries(1) as captured:
        poller.poll()
    with django_assert_num_queries(1):
        poller.poll()

    assert body("b") == b"2"
    assert '"revision" > ' in captured.captured_queries[0]["sql"]


def test_a_database_that_is_away_is_logged_once_and_read_again_when_it_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put("a", b"1")
    poller = DatabasePoller()
    poller.poll()
    with elsewhere():
        put("a", b"2")

    def fail(**_: object) -> None:
        raise OperationalError("down")

    with monkeypatch.context() as patched, capture_logs() as logs:
        patched.setattr(StoredDocument.objects, "filter", fail)
        poller.poll()
        poller.poll()
        assert connection.connection is None
    poller.poll()

    assert [log["event"] for log in logs] == ["configuration_not_read_from_database"]
    assert body() == b"2"


def test_a_process_polls_on_one_thread_and_a_fork_on_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[DatabasePoller] = []

    def note_start(poller: DatabasePoller) -> None:
        started.append(poller)

    monkeypatch.setattr(DatabasePoller, "start", note_start)
    monkeypatch.setattr(polling, "_poller", None)

    threads = [threading.Thread(target=ensure_started) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    monkeypatch.setattr(polling.os, "getpid", lambda: -1)
    ensure_started()

    assert len(started) == 2
