"""How duties start, fail, continue, wake less often and stop."""

import asyncio
import itertools
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
import structlog
from django.db import transaction

from runqy import clock
from runqy.broker.broker import Broker
from runqy.broker.health import ping, publish_wakeup
from runqy.broker.pubsub import DUTY_CHANNELS
from runqy.core.concurrency.event_loop import THREAD_NAME
from runqy.core.concurrency.threads import ThreadPool
from runqy.core.environment.connection_urls import RedisTarget
from runqy.errors import BrokerUnavailable
from runqy.maintenance import loops, wakeups
from runqy.maintenance.base import Duty, RedisDuty
from runqy.maintenance.loops import IDLE_INTERVAL_S, run_duties
from tests.support.fake_redis import FakeRedis
from tests.support.redis_client import redis_of
from tests.support.servers import free_port
from tests.support.waiting import wait_until

HOUR_S = 3600
FORCED_END_S = 60.0
"""A run that lasts this long did not end on its own."""


class Scripted:
    """A duty that runs a test's function; `ticks` counts the calls."""

    name = "scripted"
    interval_s = 0.001

    def __init__(self, act: Callable[[int], bool | None]) -> None:
        self.act = act
        self.ticks = 0

    def run_tick(self, broker: Broker) -> bool | None:
        self.ticks += 1
        return self.act(self.ticks)


class ScriptedCoroutine(RedisDuty):
    """A duty of the event loop that does what it is told."""

    name = "coroutine"
    interval_s = 0.001

    def __init__(self, act: Callable[[Broker], Awaitable[None]]) -> None:
        self.act = act

    async def run(self, broker: Broker) -> None:
        await self.act(broker)


def run(broker: Broker, *duties: Duty, stop: threading.Event, grace_s: float = 60) -> float:
    """Run duties until they stop themselves; return how long that took."""
    started = time.monotonic()
    timer = threading.Timer(FORCED_END_S, stop.set)
    timer.start()
    run_duties(duties, lambda: broker, stop.wait, grace_s=grace_s)
    timer.cancel()
    return time.monotonic() - started


def stop_after(stop: threading.Event, count: int) -> Callable[[int], None]:
    return lambda tick: stop.set() if tick >= count else None


def test_a_bug_in_one_duty_is_logged_and_stops_no_duty(single_broker: Broker) -> None:
    def fail(tick: int) -> None:
        raise ZeroDivisionError

    stop = threading.Event()
    broken = Scripted(fail)
    sound = Scripted(lambda tick: stop.set() if broken.ticks >= 3 and tick >= 3 else None)

    with structlog.testing.capture_logs() as logs:
        run(single_broker, broken, sound, stop=stop)

    assert broken.ticks >= 3
    assert [log["event"] for log in logs] == ["duty_failed"]
    assert isinstance(logs[0]["exc_info"], ZeroDivisionError)


def test_a_persistent_error_is_logged_once_and_so_is_its_end(single_broker: Broker) -> None:
    stop = threading.Event()

    def act(tick: int) -> None:
        if tick <= 3:
            raise BrokerUnavailable
        stop_after(stop, 6)(tick)

    with structlog.testing.capture_logs() as logs:
        run(single_broker, Scripted(act), stop=stop)

    assert [log["event"] for log in logs] == ["duty_hindered", "duty_resumed"]
    assert logs[0]["code"] == "broker_unavailable"
    assert logs[1]["failures"] == 3


def test_no_duty_runs_before_the_clock_of_redis_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    away = Broker(RedisTarget(addresses=(("127.0.0.1", free_port()),)))
    duty, stop = Scripted(lambda tick: None), threading.Event()
    measure, measured = away.measure_clock, itertools.count(1)

    def measure_thrice() -> float:
        if next(measured) == 3:
            stop.set()
        return measure()

    monkeypatch.setattr(away, "measure_clock", measure_thrice)

    with structlog.testing.capture_logs() as logs:
        run(away, duty, stop=stop)

    assert duty.ticks == 0
    assert [log["event"] for log in logs if log["event"] != "subscriber_disconnected"] == ["duty_hindered"]


def test_the_clock_is_measured_for_all_duties_at_once(single_broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped_ns, monotonic_ns = time.time_ns() - 24 * HOUR_S * 10**9, time.monotonic_ns()
    monkeypatch.setattr(clock, "now_ns", lambda: stopped_ns)
    monkeypatch.setattr(clock, "monotonic_ns", lambda: monotonic_ns)
    offsets: list[float] = []
    stop = threading.Event()
    measure = single_broker.measure_clock
    monkeypatch.setattr(single_broker, "measure_clock", lambda: offsets.append(measure()))

    run(single_broker, *(Scripted(stop_after(stop, 5)) for _ in range(3)), stop=stop)

    assert offsets == [pytest.approx(24 * HOUR_S, abs=HOUR_S)]
    assert single_broker.now_s() == pytest.approx(time.time(), abs=HOUR_S)


def test_a_long_interval_does_not_delay_the_stop(single_broker: Broker) -> None:
    stop = threading.Event()
    duty = Scripted(stop_after(stop, 1))
    duty.interval_s = 3600

    assert run(single_broker, duty, stop=stop) < FORCED_END_S
    assert duty.ticks == 1


def test_a_hanging_tick_does_not_keep_the_process_running(single_broker: Broker) -> None:
    stop, release = threading.Event(), threading.Event()

    def hang(tick: int) -> None:
        stop.set()
        release.wait(FORCED_END_S)

    assert run(single_broker, Scripted(hang), stop=stop, grace_s=0.1) < FORCED_END_S
    release.set()


def test_duties_that_hang_delay_no_other_one(single_broker: Broker) -> None:
    stop, release = threading.Event(), threading.Event()

    def hang(tick: int) -> None:
        release.wait(FORCED_END_S)

    async def hang_on_loop(broker: Broker) -> None:
        await asyncio.sleep(FORCED_END_S)

    hanging = [Scripted(hang) for _ in range(20)]
    others = [Scripted(lambda tick: None), ScriptedCoroutine(hang_on_loop)]
    last = Scripted(lambda tick: stop.set() if tick >= 3 and others[0].ticks >= 3 else None)

    took_s = run(single_broker, *hanging, *others, last, stop=stop, grace_s=0.1)
    release.set()

    assert took_s < FORCED_END_S
    assert [duty.ticks for duty in hanging] == [1] * 20


def test_a_coroutine_of_a_duty_runs_on_the_loop_of_the_process(single_broker: Broker) -> None:
    stop, threads = threading.Event(), set[str]()

    async def look(broker: Broker) -> None:
        await broker.send(ping())
        threads.add(threading.current_thread().name)
        stop.set()

    run(single_broker, ScriptedCoroutine(look), stop=stop)

    assert threads == {THREAD_NAME}


def test_threads_of_duties_are_used_again(single_broker: Broker) -> None:
    stop, threads = threading.Event(), set[int]()

    def look(tick: int) -> None:
        threads.add(threading.get_ident())
        stop_after(stop, 20)(tick)

    run(single_broker, Scripted(look), stop=stop)

    assert len(threads) == 1


def find_pauses(broker: Broker, found: bool | None, count: int) -> list[float]:
    """Return the pauses in s between the ticks of a duty that returns a value."""
    stop, began_s = threading.Event(), list[float]()

    def look(tick: int) -> bool | None:
        began_s.append(time.monotonic())
        stop_after(stop, count)(tick)
        return found

    run(broker, Scripted(look), stop=stop)
    return [after - before for before, after in itertools.pairwise(began_s)]


def test_a_duty_that_finds_nothing_wakes_less_often(single_broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "IDLE_INTERVAL_S", 0.2)

    pauses_s = find_pauses(single_broker, found=False, count=11)

    assert pauses_s[:9] >= [0.002 * 2**n for n in range(7)] + [0.2, 0.2]
    assert sum(pauses_s[-2:]) < 2 * IDLE_INTERVAL_S


@pytest.mark.parametrize("found", [True, None])
def test_other_duties_keep_their_interval(single_broker: Broker, found: bool | None) -> None:
    assert sum(find_pauses(single_broker, found=found, count=15)) < IDLE_INTERVAL_S


@pytest.mark.parametrize("is_of_this_process", [True, False])
@pytest.mark.django_db
def test_a_wake_up_ends_the_pause(
    single_broker: Broker, monkeypatch: pytest.MonkeyPatch, is_of_this_process: bool
) -> None:
    """Without a wake-up no tick but the first would come before the test fails."""
    monkeypatch.setattr(loops.DutyLoop, "_next_interval_s", lambda _, *, is_idle: FORCED_END_S * (1 + is_idle))
    stop, is_subscribed = threading.Event(), lambda: redis_of(single_broker).pubsub_numsub(DUTY_CHANNELS[0])[0][1]
    ticks: list[int] = []

    def wake(tick: int) -> bool:
        ticks.append(tick)
        stop_after(stop, 30)(tick)
        return False

    def send() -> None:
        wait_until(is_subscribed)
        while not stop.is_set():
            if is_of_this_process:
                wakeups.send_wakeup("scripted")
            else:
                single_broker.run(publish_wakeup("scripted"))
            time.sleep(0.01)

    sender = threading.Thread(target=send)
    sender.start()
    took_s = run(single_broker, Scripted(wake), stop=stop)
    sender.join()

    assert (len(ticks), took_s < FORCED_END_S) == (30, True)


@pytest.mark.django_db
def test_a_wake_up_arrives_after_a_message_that_is_no_text(
    single_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not even cost a reconnection, whose gap wakes all duties."""
    monkeypatch.setattr(loops.DutyLoop, "_next_interval_s", lambda *_, **__: FORCED_END_S * 2)
    gaps: list[None] = []
    monkeypatch.setattr(loops.DutyRunner, "_wake_all", lambda _: gaps.append(None))
    stop, redis = threading.Event(), redis_of(single_broker)
    duty = Scripted(stop_after(stop, 2))

    def send() -> None:
        wait_until(lambda: duty.ticks == 1 and redis.pubsub_numsub(DUTY_CHANNELS[0])[0][1])
        for name in (b"\xff", b"scripted"):
            redis.publish(DUTY_CHANNELS[0], name)

    sender = threading.Thread(target=send)
    sender.start()
    took_s = run(single_broker, duty, stop=stop)
    sender.join()

    assert (took_s < FORCED_END_S, duty.ticks, gaps) == (True, 2, [])


def test_a_wake_up_during_a_tick_is_not_lost(single_broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops.DutyLoop, "_next_interval_s", lambda *_, **__: FORCED_END_S * 2)
    stop = threading.Event()

    def wake(tick: int) -> bool:
        wakeups.send_wakeup("scripted")
        stop_after(stop, 5)(tick)
        return False

    assert run(single_broker, Scripted(wake), stop=stop) < FORCED_END_S


def test_a_duty_that_is_cancelled_leaves_the_clock_to_be_measured_for_the_others() -> None:
    may_reply = threading.Event()

    def reply(received: list[bytes]) -> bytes:
        may_reply.wait(FORCED_END_S)
        return b"*2\r\n$10\r\n%d\r\n$1\r\n0\r\n" % time.time()

    async def act() -> None:
        check = loops.ClockCheck(ThreadPool("clock", idle_s=1))
        cancelled, other = (asyncio.create_task(check.ensure(broker)) for _ in range(2))
        while not server.commands:
            await asyncio.sleep(0.001)
        cancelled.cancel()
        await asyncio.wait([cancelled])
        assert cancelled.cancelled()
        may_reply.set()

        await other

    with FakeRedis(reply) as server:
        broker = Broker(server.target)
        asyncio.run(act())
        broker.close()
    assert {words[0] for words in server.commands} == {b"TIME"}


def test_a_wake_up_does_not_wait_for_a_measurement_of_the_clock(settings: Any) -> None:
    with FakeRedis(lambda received: b":1\r\n" if received[0] == b"PUBLISH" else None) as server:
        settings.REDIS_TARGET = server.target

        wait_until(lambda: wakeups.send_wakeup("scripted") or server.commands)

    assert {words[0] for words in server.commands} == {b"PUBLISH"}


@pytest.mark.django_db(transaction=True)
def test_a_wake_up_is_sent_when_the_transaction_is_committed(monkeypatch: pytest.MonkeyPatch) -> None:
    woken: list[str] = []
    monkeypatch.setattr(wakeups, "_listener", woken.append)

    with suppress(ZeroDivisionError), transaction.atomic():
        wakeups.wake_duty("undone")
        raise ZeroDivisionError
    with transaction.atomic():
        wakeups.wake_duty("done")
        before = list(woken)

    assert (before, woken) == ([], ["done"])


@pytest.mark.django_db(transaction=True)
def test_a_wake_up_that_cannot_be_sent_is_no_error(settings) -> None:
    settings.REDIS_TARGET = RedisTarget(addresses=(("127.0.0.1", free_port()),))

    wakeups.wake_duty("scripted")
