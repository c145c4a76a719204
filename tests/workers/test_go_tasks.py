"""Tasks that Go's programs enqueued or put back."""

import redis as redis_py

from runqy.broker.asynq_pb2 import TaskMessage
from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.message import decode
from tests.support.waiting import eventually
from tests.workers.conftest import StartWorker
from tests.workers.fake_server import FakeServer
from tests.workers.processes import add_task


def test_results_of_tasks_that_go_enqueued_and_retried_are_kept(
    single_broker: Broker, redis: redis_py.Redis, server: FakeServer, start_worker: StartWorker
) -> None:
    server.response["limits"] |= {"ttl_completed_secs": 600, "active_timeout_secs": 60}
    mail = QueueKeys("mail")
    go_ids = [f"go{n}" for n in range(40)]
    unwanted = add_task(single_broker, 1, retention_s=0)
    for task_id in (*go_ids, unwanted):
        message = TaskMessage(type="mail", queue="mail", id=task_id, payload=b"1", retry=3, retried=1)
        redis.hset(mail.task(task_id), mapping={"msg": message.SerializeToString(), "state": "pending", "retried": "1"})
    redis.lpush(mail.pending, *go_ids)

    start_worker()
    eventually(
        lambda: redis.zcard(mail.completed) == len(go_ids) and not redis.exists(mail.task(unwanted)),
        what=lambda: [redis.hmget(mail.task(task_id), "state", "error_msg") for task_id in go_ids],
    )

    ends_s = dict(redis.zrange(mail.completed, 0, -1, withscores=True))
    assert ends_s.keys() == {task_id.encode() for task_id in go_ids}
    assert min(ends_s.values()) > single_broker.now_s() + 300
    assert {redis.hget(mail.task(task_id), "result") for task_id in go_ids} == {b"1"}
    assert decode(redis.hget(mail.task("go0"), "msg")).timeout == 60
