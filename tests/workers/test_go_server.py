"""A worker of Go's server, which forwards and recovers nothing."""

import redis as redis_py

from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from tests.support.tasks import take_one
from tests.workers.conftest import StartWorker
from tests.workers.fake_server import FakeServer
from tests.workers.processes import add_task, wait_for_record, wait_for_state

MAIL = QueueKeys("mail")


def test_a_worker_of_a_go_server_runs_tasks_and_reports_that_lost_ones_are_not_recovered(
    single_broker: Broker, redis: redis_py.Redis, server: FakeServer, start_worker: StartWorker
) -> None:
    server.gives_users = False
    for member in ("lease_secs", "archive_max_tasks"):
        del server.response[member]
    lost = add_task(single_broker, 1)
    take_one(single_broker)
    redis.zadd(MAIL.lease, {lost: single_broker.now_s() - 31})

    worker = start_worker()

    assert "lost tasks are not recovered" in wait_for_record(single_broker, "ready").reason
    assert len(worker.events("server_without_maintenance")) == 1
    assert wait_for_state(single_broker, add_task(single_broker, 1), "completed")
    assert redis.lrange(MAIL.active, 0, -1) == [lost.encode()]
