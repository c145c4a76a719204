"""Operations when Redis has reached its memory limit."""

import pytest

from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.queues.pausing import pause, unpause
from runqy.broker.tasks.cancel import Cancellation, cancel
from runqy.broker.tasks.enqueue import enqueue
from runqy.broker.tasks.enqueue_batch import enqueue_many
from runqy.broker.tasks.finish import FinishOutcome, complete, write_result
from runqy.broker.tasks.lease import extend
from runqy.broker.tasks.output import OutputChunk, write_output
from runqy.broker.tasks.reader import find_task
from runqy.errors import BrokerFull
from tests.support.full_redis import full_redis
from tests.support.redis_client import redis_of
from tests.support.tasks import QUEUE, fields, listed, new_task, put, take_one


@pytest.mark.parametrize("delay_s", [0, 60])
def test_a_full_redis_raises_broker_full_for_new_tasks(single_broker: Broker, delay_s: int) -> None:
    task = new_task("t1", process_at_s=single_broker.now_s() + delay_s)

    with full_redis(redis_of(single_broker)):
        with pytest.raises(BrokerFull):
            single_broker.run(enqueue(task, now_ns=single_broker.now_ns(), is_cluster=False))
        with pytest.raises(BrokerFull):
            single_broker.run(enqueue(task, now_ns=single_broker.now_ns(), is_cluster=False))
        outcomes = single_broker.run(enqueue_many(single_broker, [task, new_task("t2")]))

    assert [type(outcome) for outcome in outcomes] == [BrokerFull, BrokerFull]
    assert redis_of(single_broker).dbsize() == 0


def test_running_tasks_are_extended_read_and_cancelled_when_redis_is_full(single_broker: Broker) -> None:
    put(single_broker, "t1", "t2")
    taken = take_one(single_broker)

    with full_redis(redis_of(single_broker)):
        now_ns = single_broker.now_ns()
        extension = single_broker.run(extend([taken.lease], now_ns=now_ns))
        single_broker.run(write_result(taken.lease, b"1"))
        outcomes = [single_broker.run(cancel(QUEUE, task_id, now_ns=now_ns)) for task_id in ("t1", "t2")]
        record = single_broker.run(find_task(single_broker, "t1"))
        single_broker.run(unpause(QUEUE, now_ns=now_ns))

    assert extension.lost == ()
    assert fields(single_broker, "t1")["result"] == b"1"
    assert outcomes == [Cancellation.REQUESTED, Cancellation.CANCELED]
    assert record.result == b"1"
    assert listed(single_broker)["archived"] == ["t2"]


def test_a_full_redis_can_be_paused(single_broker: Broker) -> None:
    put(single_broker, "t1")

    with full_redis(redis_of(single_broker)):
        assert single_broker.run(pause(QUEUE, now_ns=single_broker.now_ns()))


def test_a_full_redis_takes_results_and_no_output(single_broker: Broker) -> None:
    put(single_broker, "t1", retention_s=60)
    taken = take_one(single_broker)
    output = write_output([OutputChunk(lease=taken.lease, text=b"line\n")])

    with full_redis(redis_of(single_broker)):
        completion = complete(taken.lease, taken.message, b"1", now_ns=single_broker.now_ns())
        written, completed = single_broker.run_all([output, completion])

    assert isinstance(written, BrokerFull)
    assert completed == FinishOutcome.COMPLETED
    assert single_broker.run(find_task(single_broker, "t1")).result == b"1"
    assert not redis_of(single_broker).exists(QueueKeys(QUEUE).output("t1"))
