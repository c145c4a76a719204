"""What a web process looks up in the background, and how long requests wait for it."""

import threading
from typing import Any

import pytest
import redis as redis_py

from runqy.broker.async_broker import AsyncBroker
from runqy.configuration import snapshot
from runqy.core.environment.connection_urls import RedisTarget
from runqy.server.dataplane import background_tasks
from runqy.server.dataplane.background_tasks import BackgroundTasks
from tests.support import environment
from tests.support.event_loop import run_with_broker, wait_until

HANGS_S = 10.0


def test_requests_do_not_wait_for_a_look_up_that_hangs(redis: redis_py.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background_tasks, "EXTRA_REFRESH_WAIT_S", 0.05)
    monkeypatch.setattr(background_tasks, "EXTRA_REFRESH_EVERY_S", 0.0)
    may_end, ended = threading.Event(), threading.Event()

    def hang(*_: Any) -> None:
        may_end.wait(HANGS_S)
        ended.set()

    monkeypatch.setattr(snapshot, "get_newest", hang)

    async def act(broker: AsyncBroker) -> None:
        tasks = BackgroundTasks(broker)

        for _ in range(2):  # the second one waits for the same look-up
            assert not await tasks.refresh_for_unknown()
        assert not ended.is_set()
        may_end.set()
        await wait_until(ended.is_set)

    run_with_broker(RedisTarget(addresses=(("127.0.0.1", environment.SERVER.port),)), act)
