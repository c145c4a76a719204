"""What may pass at a rate, for all processes together."""

from threading import Thread

from hypothesis import given
from hypothesis import strategies as st

from runqy.broker import keys
from runqy.broker.broker import Broker
from runqy.broker.rates import Rate, spend

SECOND = 10**9
START = 1_800_000_000 * SECOND


def send(broker: Broker, rate: Rate, at_ns: int = START, subject: str = "a") -> bool:
    """Send one request and tell whether it passes."""
    return broker.run(spend(subject, rate, now_ns=at_ns)).passes


def test_as_many_pass_at_once_as_may_in_the_window(broker):
    rate = Rate(3, 60)

    assert [send(broker, rate) for _ in range(5)] == [True] * 3 + [False] * 2
    assert send(broker, rate, subject="b")


def test_requests_come_back_one_by_one(broker):
    rate = Rate(3, 60)
    for _ in range(3):
        send(broker, rate)

    assert not send(broker, rate, START + 19 * SECOND)
    assert send(broker, rate, START + 20 * SECOND)
    assert not send(broker, rate, START + 21 * SECOND)
    assert [send(broker, rate, START + 100 * SECOND) for _ in range(4)] == [True] * 3 + [False]


def test_whoever_asks_learns_what_is_left_and_when_more_comes(broker):
    rate = Rate(2, 60)

    told = [broker.run(spend("a", rate, now_ns=START)) for _ in range(3)]

    assert [(t.passes, t.left, t.wait_s, t.reset_s) for t in told] == [
        (True, 1, 0, 30),
        (True, 0, 30, 60),
        (False, 0, 30, 60),
    ]


def test_what_was_spent_is_forgotten_with_the_window(broker):
    send(broker, Rate(2, 60))

    assert 29_000 < broker.client.pttl(keys.rate("a")) <= 30_000


def test_a_refused_request_spends_nothing(broker):
    rate = Rate(1, 10)
    send(broker, rate)
    before = broker.client.get(keys.rate("a"))

    send(broker, rate, START + SECOND)

    assert broker.client.get(keys.rate("a")) == before


def test_a_clock_that_was_ahead_holds_nobody_up_for_more_than_a_window(broker):
    rate = Rate(1, 10)
    send(broker, rate, START + 3600 * SECOND)

    assert not send(broker, rate, START + 9 * SECOND)
    broker.client.set(keys.rate("a"), (START + 3600 * SECOND) // 1000)
    assert broker.run(spend("a", rate, now_ns=START)).wait_s == 10


def test_many_at_once_pass_no_more_than_may(single_broker):
    passed = []

    def ask():
        passed.extend(send(single_broker, Rate(20, 3600)) for _ in range(10))

    threads = [Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(passed) == 20


@given(st.integers(1, 200), st.sampled_from([1, 60, 3600]))
def test_a_rate_is_neither_one_more_nor_one_less(most, window_s):
    from tests.support.environment import SERVER  # noqa: PLC0415 (one server for all examples)

    broker = Broker(SERVER.client())
    broker.client.delete(keys.rate("h"))

    assert [send(broker, Rate(most, window_s), subject="h") for _ in range(most + 1)] == [True] * most + [False]
    broker.close()
