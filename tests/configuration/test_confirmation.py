"""What confirms the configuration of a process, and for how long it is used without."""

from typing import Any

import pytest
import redis as redis_py
from django.conf import settings as django_settings
from structlog.testing import capture_logs

from runqy import clock
from runqy.broker import keys
from runqy.configuration import snapshot
from runqy.configuration.documents import InvalidSignature, sign_revisions, signing_key, verify_revisions
from runqy.configuration.operations import publication_result
from runqy.configuration.publishing import PublicationProblem, find_publication_problem
from runqy.configuration.snapshot import get_snapshot
from tests.configuration.support import away, put, remove, take_database_away

pytestmark = pytest.mark.usefixtures("configuration")


def key() -> bytes:
    return signing_key(django_settings.SECRET_KEY)


def pass_time(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Advance the clock of the process."""
    later_s = clock.monotonic_s() + seconds
    monkeypatch.setattr(clock, "monotonic_s", lambda: later_s)


def test_the_database_confirms_what_it_had_when_the_query_began(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = snapshot.SnapshotCache()
    monkeypatch.setattr(clock, "monotonic_s", iter([100.0, 200.0, 300.0]).__next__)

    cache.read_database()

    assert cache.confirmed_at == 100.0


def test_only_signed_lists_of_revisions_are_accepted() -> None:
    content = sign_revisions({"queue:a": 7, "vault:é": 2}, key())

    assert verify_revisions(content, key()) == {"queue:a": 7, "vault:é": 2}
    assert verify_revisions(b"", key()) == {}
    altered = (content.replace(b"7", b"8"), content[:-1], content[1:], b"forged", b"\xff", b"{}")
    for other in (*altered, sign_revisions({"queue:a": 7}, b"k" * 32)):
        with pytest.raises(InvalidSignature):
            verify_revisions(other, key())


def test_redis_confirms_the_configuration_that_it_has_while_the_database_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put("a")
    remove("a")
    put("b")
    get_snapshot()
    take_database_away(monkeypatch)

    pass_time(monkeypatch, 61)

    assert snapshot.is_confirmed()
    assert find_publication_problem() is None


def test_without_redis_and_database_the_configuration_is_confirmed_for_a_minute(
    monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    pass_time(monkeypatch, 0)  # it stands still but for these
    put("a")
    get_snapshot()
    take_database_away(monkeypatch)
    settings.REDIS_TARGET = away()

    pass_time(monkeypatch, 59)
    assert snapshot.is_confirmed()
    pass_time(monkeypatch, 3)
    assert not snapshot.is_confirmed()


@pytest.mark.parametrize(
    ("put_back", "problem"),
    [
        ("nothing", PublicationProblem.MISSING),
        ("forged", PublicationProblem.ALTERED),
        ("another key", PublicationProblem.ALTERED),
        ("older", PublicationProblem.OUTDATED),
    ],
)
def test_a_configuration_that_was_not_published_last_confirms_nothing(
    monkeypatch: pytest.MonkeyPatch, redis: redis_py.Redis, put_back: str, problem: PublicationProblem
) -> None:
    put("a", b"1")
    older = redis.get(keys.CONFIG_REVISIONS)
    put("a", b"2")
    get_snapshot()
    contents = {"nothing": b"", "forged": b"forged", "another key": sign_revisions({}, b"k" * 32), "older": older}
    redis.set(keys.CONFIG_REVISIONS, contents[put_back])
    assert find_publication_problem() is problem

    pass_time(monkeypatch, 61)
    take_database_away(monkeypatch)
    with capture_logs() as logs:
        assert not snapshot.is_confirmed()
        get_snapshot(0)

    assert [log["event"] for log in logs].count("published_configuration_refused") == 1


def test_a_change_is_reported_as_published_only_if_it_is(settings: Any) -> None:
    with publication_result() as published:
        put("a")
    settings.REDIS_TARGET = away()
    with publication_result() as unpublished:
        put("b")

    assert (published.is_published, unpublished.is_published) == (True, False)
