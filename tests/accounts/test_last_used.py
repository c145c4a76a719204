"""Uses of keys are remembered in memory, and written to Redis in batches at most once a minute each."""

import pytest
import redis as redis_py
from structlog.testing import capture_logs

from runqy import clock
from runqy.accounts.identities import (
    USE_INTERVAL_S,
    pop_due_uses,
    record_use,
    store_key_uses,
    write_use_when_due,
    write_uses,
)
from runqy.accounts.operations import create_api_key
from runqy.broker import keys
from runqy.core.api_keys import Role
from runqy.redis_connection import get_broker
from tests.accounts.authenticating import forget_uses
from tests.configuration.support import away
from tests.support.links import count_round_trips


@pytest.fixture(autouse=True)
def now_s(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the test set the time; no use is remembered from another one."""
    now = [1_800_000_000]
    monkeypatch.setattr(clock, "now_ns", lambda: now[0] * 10**9)
    monkeypatch.setattr(clock, "monotonic_s", lambda: float(now[0]))
    forget_uses(monkeypatch)
    return now


def test_uses_of_many_keys_are_written_in_one_round_trip(
    redis: redis_py.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key_id in ("1", "2", "3"):
        record_use(key_id)

    broker = get_broker()
    trips = count_round_trips(monkeypatch, broker)
    broker.run(write_uses(broker))

    assert len(trips) == 1
    assert redis.hgetall(keys.KEY_USES) == {b"1": b"1800000000", b"2": b"1800000000", b"3": b"1800000000"}


def test_a_key_is_written_again_only_after_a_minute_with_its_last_use(now_s: list[int]) -> None:
    record_use("1")
    assert pop_due_uses() == {"1": now_s[0]}

    now_s[0] += 10
    record_use("1")
    now_s[0] += 10
    record_use("1")
    assert pop_due_uses() == {}

    now_s[0] += int(USE_INTERVAL_S) - 20
    assert pop_due_uses() == {"1": now_s[0] - int(USE_INTERVAL_S) + 20}
    assert pop_due_uses() == {}


def test_keys_of_the_environment_leave_nothing_to_write() -> None:
    record_use("")

    assert pop_due_uses() == {}


def test_a_use_that_cannot_be_written_is_logged_and_tried_again_after_a_minute(
    settings: object, now_s: list[int]
) -> None:
    settings.REDIS_TARGET = away()  # type: ignore[attr-defined]
    with capture_logs() as logs:
        for _ in range(2):
            record_use("1")
            write_use_when_due("1")
    assert [log["event"] for log in logs].count("key_use_not_recorded") == 1

    now_s[0] += int(USE_INTERVAL_S)

    assert pop_due_uses() == {"1": now_s[0] - int(USE_INTERVAL_S)}


def test_an_earlier_use_that_arrives_late_replaces_no_later_one(
    configuration: None, redis: redis_py.Redis, now_s: list[int]
) -> None:
    row = create_api_key(name="shop", role=Role.CLIENT).row
    used_s = []
    for later_s in (0, -30, 30):
        redis.hset(keys.KEY_USES, str(row.pk), now_s[0] + later_s)
        store_key_uses()
        row.refresh_from_db()
        assert row.last_used_at is not None
        used_s.append(int(row.last_used_at.timestamp()) - now_s[0])

    assert used_s == [0, 0, 30]
