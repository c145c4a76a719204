"""What pausing a queue leaves in Redis."""

from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.queues.pausing import Pause, find_pause, pause, unpause
from tests.support.redis_client import redis_of
from tests.support.tasks import QUEUE, ids, put, take

NOW_NS = 1_700_000_000_500_000_000


def test_a_pause_has_its_time(broker: Broker) -> None:
    was_changed = broker.run(pause(QUEUE, now_ns=NOW_NS))

    assert was_changed
    assert redis_of(broker).get(QueueKeys(QUEUE).paused) == b"1700000000"


def test_pausing_again_changes_nothing(broker: Broker) -> None:
    broker.run(pause(QUEUE, now_ns=NOW_NS))

    assert not broker.run(pause(QUEUE, now_ns=NOW_NS + 10**10))
    assert redis_of(broker).get(QueueKeys(QUEUE).paused) == b"1700000000"


def test_tasks_of_a_resumed_queue_are_dequeued(broker: Broker) -> None:
    put(broker, "t1")
    broker.run(pause(QUEUE, now_ns=NOW_NS))

    assert broker.run(unpause(QUEUE, now_ns=NOW_NS))
    assert ids(take(broker)) == ["t1"]
    assert not broker.run(unpause(QUEUE, now_ns=NOW_NS))


def test_the_user_and_time_of_a_pause_are_recorded(broker: Broker) -> None:
    assert broker.run(find_pause(QUEUE)) is None

    broker.run(pause(QUEUE, now_ns=NOW_NS, by="ops"))
    broker.run(pause(QUEUE, now_ns=NOW_NS + 10**10, by="another user"))

    assert broker.run(find_pause(QUEUE)) == Pause(since_s=NOW_NS // 10**9, by="ops")


def test_resuming_removes_the_pause_details(broker: Broker) -> None:
    broker.run(pause(QUEUE, now_ns=NOW_NS, by="ops"))

    broker.run(unpause(QUEUE, now_ns=NOW_NS))

    assert broker.run(find_pause(QUEUE)) is None
    assert not redis_of(broker).exists(QueueKeys(QUEUE).pause_details)


def test_a_pause_by_asynqs_tools_has_no_user(broker: Broker) -> None:
    broker.run(pause(QUEUE, now_ns=NOW_NS, by="ops"))
    redis_of(broker).set(QueueKeys(QUEUE).paused, 5)

    assert broker.run(find_pause(QUEUE)) == Pause(since_s=5, by="")


def test_invalid_pause_details_are_ignored(broker: Broker) -> None:
    keys = QueueKeys(QUEUE)
    redis_of(broker).set(keys.paused, "9" * 5000)
    redis_of(broker).set(keys.pause_details, "x")

    assert broker.run(find_pause(QUEUE)) == Pause(since_s=None, by="")
