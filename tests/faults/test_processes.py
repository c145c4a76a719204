"""A web process that is killed under load leaves every task whole, or nothing of it."""

import signal

import pytest
import redis as redis_py

from tests.faults.producers import ENQUEUE, ENQUEUE_BATCH, UNAVAILABLE, is_accepted, producing
from tests.faults.servers import StartWeb
from tests.faults.stored import check_tasks
from tests.support.servers import ValkeyServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.fault

KILLS = 3


def test_no_task_is_incomplete_after_web_processes_are_killed(
    start_web: StartWeb, valkey: ValkeyServer, stored: redis_py.Redis
) -> None:
    web = start_web(valkey.url, processes=2)

    with producing(web.port, *[ENQUEUE] * 6, *[ENQUEUE_BATCH] * 2) as producers:
        for _ in range(KILLS):
            producers.wait_for(is_accepted, 50)
            victim = web.workers()[0]
            victim.send_signal(signal.SIGKILL)
            wait_until(lambda victim=victim: not victim.is_alive())
            producers.wait_for(is_accepted, 20)  # by the other process
            wait_until(lambda: len(web.workers()) == 2)

    delayed = UNAVAILABLE  # by a busy machine
    assert producers.outcomes().keys() - delayed == {(200, ""), (0, "")}, producers.outcomes()
    check_tasks(producers.ids, stored)
