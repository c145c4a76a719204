"""What a web process logs while Redis is away."""

from collections import Counter
from itertools import count
from typing import Any

import pytest
import structlog

from runqy import clock
from runqy.configuration.snapshot import get_snapshot
from runqy.core.environment.connection_urls import RedisTarget
from tests.api.client import ApiClient
from tests.support.servers import free_port


@pytest.mark.usefixtures("configuration")
def test_an_outage_is_logged_once_and_so_is_its_end(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    get_snapshot()
    target, now_s = settings.REDIS_TARGET, count(clock.monotonic_s() + 2, 2)

    def read_a_task() -> None:
        moment_s = next(now_s)
        monkeypatch.setattr(clock, "monotonic_s", lambda: moment_s)
        ApiClient().get("/queue/x")

    read_a_task()  # an outage in an earlier test is over
    with structlog.testing.capture_logs() as entries:
        settings.REDIS_TARGET = RedisTarget(addresses=(("127.0.0.1", free_port()),))
        for _ in range(10):
            read_a_task()
        settings.REDIS_TARGET = target
        read_a_task()

    counts = Counter(entry["event"] for entry in entries)
    assert counts["request_failed"] == 10
    assert [counts[event] for event in ("broker_unavailable", "broker_available")] == [1, 1]
