"""What may pass at a rate, for all processes together."""

from threading import Thread

from hypothesis import given
from hypothesis import strategies as st

from runqy.broker import keys
from runqy.broker.broker import Broker
from runqy.broker.rate_limit import acquire
from runqy.core.formats.durations import Rate
from tests.support.environment import SERVER
from tests.support.redis_client import redis_of

SECOND = 10**9
START = 1_800_000_000 * SECOND
HOUR_S = 3600
"""Keys expire by Redis's clock, and requests carry a fixed time: in windows of some length none expires meanwhile."""


def send(broker: Broker, rate: Rate, at_ns: int = START, subject: str = "a") -> bool:
    """Send one request and return whether it is allowed."""
    return broker.run(acquire(subject, rate, now_ns=at_ns)).is_allowed


def test_the_whole_limit_is_allowed_immediately(broker):
    rate = Rate(3, 60)

    assert [send(broker, rate) for _ in range(5)] == [True] * 3 + [False] * 2
    assert send(broker, rate, subject="b")


def test_the_allowance_is_restored_evenly(broker):
    rate = Rate(3, 60)
    for _ in range(3):
        send(broker, rate)

    assert not send(broker, rate, START + 19 * SECOND)
    assert send(broker, rate, START + 20 * SECOND)
    assert not send(broker, rate, START + 21 * SECOND)
    assert [send(broker, rate, START + 100 * SECOND) for _ in range(4)] == [True] * 3 + [False]


def test_the_status_has_the_remaining_allowance_and_its_reset(broker):
    rate = Rate(2, 60)

    statuses = [broker.run(acquire("a", rate, now_ns=START)) for _ in range(3)]

    assert [(t.is_allowed, t.remaining, t.wait_s, t.reset_s) for t in statuses] == [
        (True, 1, 0, 30),
        (True, 0, 30, 60),
        (False, 0, 30, 60),
    ]


def read_time_ms(broker: Broker) -> int:
    """Return the time of the Redis that has the key."""
    options = {"target_nodes": redis_of(broker).get_node_from_key(keys.rate("a"))} if broker.is_cluster else {}
    seconds, micros = redis_of(broker).execute_command("TIME", **options)
    return int(seconds) * 1000 + int(micros) // 1000


def test_the_used_rate_expires_with_the_window(broker):
    before_ms = read_time_ms(broker)
    send(broker, Rate(2, 60))
    after_ms = read_time_ms(broker)

    assert before_ms + 30_000 <= redis_of(broker).pexpiretime(keys.rate("a")) <= after_ms + 30_000


def test_a_refused_request_spends_nothing(broker):
    rate = Rate(1, HOUR_S)
    send(broker, rate)
    before = redis_of(broker).get(keys.rate("a"))

    send(broker, rate, START + SECOND)

    assert redis_of(broker).get(keys.rate("a")) == before


def test_a_clock_that_was_ahead_delays_no_request_by_more_than_a_window(broker):
    rate = Rate(1, HOUR_S)
    send(broker, rate, START + 24 * HOUR_S * SECOND)

    assert not send(broker, rate, START + (HOUR_S - 1) * SECOND)
    redis_of(broker).set(keys.rate("a"), (START + 24 * HOUR_S * SECOND) // 1000)
    assert broker.run(acquire("a", rate, now_ns=START)).wait_s == HOUR_S


def test_concurrent_requests_do_not_exceed_the_limit(single_broker):
    passed = []

    def ask():
        passed.extend(send(single_broker, Rate(20, 3600)) for _ in range(10))

    threads = [Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(passed) == 20


@given(st.integers(1, 200), st.sampled_from([3600, 86400]))
def test_a_rate_is_neither_one_more_nor_one_less(redis_server: None, limit: int, window_s: int) -> None:
    broker = Broker(SERVER.target)
    redis_of(broker).delete(keys.rate("h"))

    assert [send(broker, Rate(limit, window_s), subject="h") for _ in range(limit + 1)] == [True] * limit + [False]
    broker.close()
