"""A worker of a server that forwards and recovers nothing, as Go's server does."""

import pytest
import redis as redis_py

from runqy.broker import keys
from runqy.broker.asynq_pb2 import TaskMessage
from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.message import encode
from runqy.broker.tasks.reader import find_task
from tests.support.tasks import take_one
from tests.support.waiting import eventually
from tests.workers.conftest import StartWorker
from tests.workers.fake_server import FakeServer, change_configuration
from tests.workers.processes import add_task, wait_for_state

MAIL = QueueKeys("mail")


@pytest.fixture(autouse=True)
def go_server(server: FakeServer) -> FakeServer:
    """Let the server respond as Go's does, without Redis users of workers."""
    server.gives_users = False
    for member in ("lease_secs", "archive_max_tasks"):
        del server.response[member]
    return server


def test_a_task_that_is_due_is_forwarded_and_runs(single_broker: Broker, start_worker: StartWorker) -> None:
    worker = start_worker()
    task_id = add_task(single_broker, 1, process_at_s=single_broker.now_s() + 2)

    assert wait_for_state(single_broker, task_id, "completed")
    assert len(worker.events("queue_maintenance_started")) == 1


def test_a_task_that_asked_for_a_retry_runs_again(single_broker: Broker, start_worker: StartWorker) -> None:
    start_worker()
    task_id = add_task(single_broker, {"do": "retry", "text": "again"}, max_retry=1)

    record = wait_for_state(single_broker, task_id, "archived")

    assert (record.error, record.retried, record.attempts) == ("again", 1, 2)


def test_the_task_of_a_lost_worker_is_recovered(
    single_broker: Broker, redis: redis_py.Redis, start_worker: StartWorker
) -> None:
    task_id = add_task(single_broker, 1)
    take_one(single_broker)
    redis.zadd(MAIL.lease, {task_id: single_broker.now_s() - 31})

    start_worker()

    record = wait_for_state(single_broker, task_id, "completed")
    assert record.retried == 1


def test_a_lost_task_without_retries_left_is_archived_and_an_expired_one_and_a_lost_worker_are_removed(
    single_broker: Broker, redis: redis_py.Redis, start_worker: StartWorker
) -> None:
    lost = add_task(single_broker, 1, max_retry=0)
    take_one(single_broker)
    redis.zadd(MAIL.lease, {lost: 1})
    message = encode(TaskMessage(id="done", queue="mail", type="mail"))
    redis.hset(MAIL.task("done"), mapping={"msg": message, "state": "completed"})
    redis.zadd(MAIL.completed, {"done": single_broker.now_s() - 1})
    redis.zadd(keys.WORKER_RECORDS, {"lost": 1})

    start_worker()

    assert wait_for_state(single_broker, lost, "archived").error == "task lease expired"
    eventually(lambda: not redis.exists(MAIL.task("done"), MAIL.completed))
    eventually(lambda: redis.zscore(keys.WORKER_RECORDS, "lost") is None)


def test_a_worker_of_a_server_with_maintenance_leaves_it_to_that(
    single_broker: Broker, redis: redis_py.Redis, server: FakeServer, start_worker: StartWorker
) -> None:
    server.response["queue"]["revision"] = "1"
    worker = start_worker()
    worker.wait_for("deployed")

    server.response["lease_secs"] = 30
    change_configuration(redis, server, "2")
    worker.wait_for("registered_again")
    task_id = add_task(single_broker, 1, process_at_s=single_broker.now_s() + 1)
    wait_for_state(single_broker, add_task(single_broker, {"do": "pause", "s": 3}), "completed")

    assert single_broker.run(find_task(task_id)).state == "scheduled"
