"""How idle workers hear of work, and how a listener lives through disturbances."""

# ruff: noqa: SLF001 (the listener is watched from inside)

import queue
import signal
import threading
from collections.abc import Iterator

import pytest
from redis.connection import Connection

from runqy.broker import keys, waking
from runqy.broker.broker import Broker
from runqy.broker.connection import RedisTarget
from runqy.broker.consuming import Share, plan_take, take_tasks
from runqy.broker.enqueue_batch import enqueue_many
from runqy.broker.finishing import requeue
from runqy.broker.pausing import pause, unpause
from runqy.broker.waking import Listener
from tests.support.servers import ValkeyServer
from tests.support.tasks import QUEUE, ids, new_task, put, take_one

WAIT_S = 10


class Ear:
    """A listener that keeps what it heard."""

    def __init__(self, broker: Broker) -> None:
        self.heard: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self.gap = threading.Event()
        self.listener = Listener(broker, lambda *message: self.heard.put(message), self.gap.set).start()

    def next(self) -> tuple[str, bytes]:
        """Return the next message."""
        return self.heard.get(timeout=WAIT_S)


@pytest.fixture
def ear(broker: Broker) -> Iterator[Ear]:
    """Return a listener on the same Redis."""
    ear = Ear(broker)
    yield ear
    ear.listener.close()


def publish_end(broker: Broker, ear: Ear) -> None:
    """Publish what comes last; in a cluster messages of several nodes may overtake one another."""
    assert ear.listener.subscribe(["end"])
    broker.client.publish("end", "")


def go_idle(broker: Broker, ear: Ear, token: str, *queues: str, ago_ms: int = 0) -> list[str]:
    """Let a worker listen for its wake-up and look for work; return what it finds."""
    assert ear.listener.subscribe([keys.wake_channel(token)])
    return look(broker, token, *queues, ago_ms=ago_ms)


def look(broker: Broker, token: str, *queues: str, ago_ms: int = 0) -> list[str]:
    """Let a worker look for work, at the first queue first."""
    shares = [Share(queue=queue) for queue in queues or (QUEUE,)]
    order = plan_take(shares, 1, worker_id=token, wake_token=token, is_strict=True)
    return ids(broker.run(take_tasks(order, now_ns=broker.now_ns() - ago_ms * 1_000_000))[0])


def test_a_task_wakes_one_idle_worker_and_names_its_queue(broker: Broker, ear: Ear) -> None:
    go_idle(broker, ear, "w1", ago_ms=100)
    go_idle(broker, ear, "w2")

    put(broker, "t1")

    publish_end(broker, ear)
    assert {ear.next(), ear.next()} == {(keys.wake_channel("w2"), QUEUE.encode()), ("end", b"")}


def test_as_many_workers_wake_as_there_are_tasks(broker: Broker, ear: Ear) -> None:
    for ago_ms, token in enumerate(("w3", "w2", "w1")):
        go_idle(broker, ear, token, ago_ms=100 * ago_ms)

    put(broker, "t1")
    put(broker, "t2")

    publish_end(broker, ear)
    assert {ear.next()[0] for _ in range(3)} == {keys.wake_channel("w3"), keys.wake_channel("w2"), "end"}


def test_a_batch_wakes_as_many_workers_as_it_has_tasks(broker: Broker, ear: Ear) -> None:
    for ago_ms, token in enumerate(("w3", "w2", "w1")):
        go_idle(broker, ear, token, ago_ms=100 * ago_ms)

    broker.run(enqueue_many([new_task("t1"), new_task("t2")]))

    publish_end(broker, ear)
    assert {ear.next()[0] for _ in range(3)} == {keys.wake_channel("w3"), keys.wake_channel("w2"), "end"}


def test_a_worker_hears_of_every_queue_it_serves(broker: Broker, ear: Ear) -> None:
    go_idle(broker, ear, "w1", "a", "b")

    put(broker, "t1", queue="b")

    assert ear.next() == (keys.wake_channel("w1"), b"b")


def test_who_stopped_listening_is_not_woken(broker: Broker, ear: Ear) -> None:
    assert ear.listener.subscribe([keys.wake_channel("w1")])
    order = plan_take([Share(queue=QUEUE)], 1, worker_id="w1", wake_token="w1")
    broker.run(take_tasks(order, now_ns=broker.now_ns() - 10_000_000_000))

    put(broker, "t1")

    publish_end(broker, ear)
    assert ear.next()[0] == "end"


def test_a_busy_worker_passes_its_wake_up_on(broker: Broker, ear: Ear) -> None:
    go_idle(broker, ear, "other", "b", ago_ms=100)
    go_idle(broker, ear, "both", "a", "b")
    put(broker, "a1", queue="a")
    put(broker, "b1", queue="b")
    assert [ear.next()[0], ear.next()[0]] == [keys.wake_channel("both")] * 2

    found = look(broker, "both", "a", "b")

    assert found == ["a1"]
    assert ear.next() == (keys.wake_channel("other"), b"b")


def test_a_task_that_is_given_back_wakes_a_worker(broker: Broker, ear: Ear) -> None:
    put(broker, "t1")
    taken = take_one(broker)
    go_idle(broker, ear, "w2")

    broker.run(requeue(taken.hold, now_ns=broker.now_ns()))

    assert ear.next() == (keys.wake_channel("w2"), QUEUE.encode())


def test_a_queue_that_goes_on_wakes_workers_for_what_waits(broker: Broker, ear: Ear) -> None:
    put(broker, "t1")
    broker.run(pause(QUEUE, now_ns=broker.now_ns()))
    assert go_idle(broker, ear, "w1") == []

    broker.run(unpause(QUEUE, now_ns=broker.now_ns()))

    assert ear.next() == (keys.wake_channel("w1"), QUEUE.encode())


def test_a_channel_is_heard_until_everybody_left_it(broker: Broker, ear: Ear) -> None:
    assert ear.listener.subscribe(["c"])
    assert ear.listener.subscribe(["c"])
    ear.listener.unsubscribe(["c"])

    broker.client.publish("c", "1")
    assert ear.next() == ("c", b"1")
    ear.listener.unsubscribe(["c"])
    publish_end(broker, ear)
    broker.client.publish("c", "2")
    broker.client.publish("end", "")

    assert [ear.next()[0], ear.next()[0]] == ["end", "end"]


def test_many_threads_may_subscribe_at_once(broker: Broker, ear: Ear) -> None:
    confirmed: list[bool] = []

    def wait_for_one(name: str) -> None:
        confirmed.append(ear.listener.subscribe([name], timeout_s=WAIT_S))
        broker.client.publish(name, name)

    threads = [threading.Thread(target=wait_for_one, args=(f"c{i}",)) for i in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert confirmed == [True] * 40
    assert {ear.next()[0] for _ in range(40)} == {f"c{i}" for i in range(40)}


def test_a_listener_that_was_cut_off_listens_again_and_tells_of_the_gap(single_broker: Broker) -> None:
    ear = Ear(single_broker)
    assert ear.listener.subscribe(["c"])

    single_broker.client.client_kill_filter(_type="pubsub")

    assert ear.gap.wait(WAIT_S)
    single_broker.client.publish("c", "again")
    assert ear.next() == ("c", b"again")
    ear.listener.close()


def test_a_listener_outlives_a_restart_of_redis() -> None:
    server = ValkeyServer().start()
    broker = Broker.connect(RedisTarget(addresses=(("127.0.0.1", server.port),)))
    ear = Ear(broker)
    assert ear.listener.subscribe(["c"])
    server.kill()
    assert not ear.listener.subscribe(["d"], timeout_s=0.2)

    server.start()

    assert ear.gap.wait(WAIT_S)
    client = server.client()
    client.publish("d", "back")
    assert ear.next() == ("d", b"back")
    client.close()
    ear.listener.close()
    broker.close()
    server.stop()


def test_a_listener_outlives_a_connection_that_another_thread_closed(
    monkeypatch: pytest.MonkeyPatch, own_server: ValkeyServer
) -> None:
    broker = Broker.connect(RedisTarget(addresses=(("127.0.0.1", own_server.port),)))
    ear = Ear(broker)
    assert ear.listener.subscribe(["c"], timeout_s=WAIT_S)
    can_read, closed = Connection.can_read, []

    def closed_once(self: Connection, timeout: float = 0) -> bool:
        if not closed:
            closed.append(True)
            raise TypeError("argument must be an int, or have a fileno() method.")
        return bool(can_read(self, timeout))

    monkeypatch.setattr(Connection, "can_read", closed_once)
    ear.listener._ring()

    assert ear.gap.wait(WAIT_S)
    ear.listener.close()
    broker.close()


def test_a_listener_outlives_any_number_of_failures(monkeypatch: pytest.MonkeyPatch, own_server: ValkeyServer) -> None:
    monkeypatch.setattr(waking, "RECONNECT_MAX_S", 0.0)
    broker = Broker.connect(RedisTarget(addresses=(("127.0.0.1", own_server.port),)))
    ear = Ear(broker)
    assert ear.listener.subscribe(["c"], timeout_s=WAIT_S)
    own_server.kill()
    while ear.listener._failures <= 1024:  # 2 to that power is no float
        ear.listener._thread.join(0.01)
        assert ear.listener._thread.is_alive()

    own_server.start()

    assert ear.gap.wait(WAIT_S)
    ear.listener.close()
    broker.close()


def test_a_listener_that_is_refused_its_channels_asks_less_and_less(own_server: ValkeyServer) -> None:
    with own_server.client() as client:
        client.execute_command("ACL", "SETUSER", "deaf", "on", ">secret", "~*", "+@all", "resetchannels")
    broker = Broker.connect(
        RedisTarget(addresses=(("127.0.0.1", own_server.port),), username="deaf", password="secret")
    )
    ear = Ear(broker)

    assert not ear.listener.subscribe(["c"], timeout_s=0)
    while ear.listener._failures < 3:
        ear.listener._thread.join(0.01)
        assert ear.listener._thread.is_alive()
    with own_server.client() as client:
        client.execute_command("ACL", "SETUSER", "deaf", "allchannels")

    assert ear.gap.wait(WAIT_S)
    assert ear.listener._failures == 0
    ear.listener.close()
    broker.close()


def test_a_connection_that_went_silent_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waking, "QUIET_S", 0.1)
    monkeypatch.setattr(waking, "DEAD_S", 0.4)
    server = ValkeyServer().start()
    broker = Broker.connect(RedisTarget(addresses=(("127.0.0.1", server.port),)))
    ear = Ear(broker)
    assert ear.listener.subscribe(["c"], timeout_s=WAIT_S)
    assert server.process is not None

    server.process.send_signal(signal.SIGSTOP)
    while ear.listener.subscribe(["c"], timeout_s=0.05):
        assert not ear.gap.is_set()  # the test's own time limit ends this when nothing is noticed
    server.process.send_signal(signal.SIGCONT)

    assert ear.gap.wait(WAIT_S)
    broker.client.publish("c", "again")
    assert ear.next() == ("c", b"again")
    ear.listener.close()
    broker.close()
    server.stop()


def test_a_quiet_connection_is_kept(single_broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waking, "QUIET_S", 0.05)
    monkeypatch.setattr(waking, "DEAD_S", 1.0)
    ear = Ear(single_broker)
    assert ear.listener.subscribe(["c"], timeout_s=WAIT_S)

    assert not ear.gap.wait(1.3)  # longer than silence may last

    ear.listener.close()


def listeners() -> set[threading.Thread]:
    """Return the threads that listen, those of other tests among them."""
    return {thread for thread in threading.enumerate() if thread.name == "runqy-listener"}


def test_closing_ends_the_thread_and_the_connection(single_broker: Broker) -> None:
    before = listeners()
    ear = Ear(single_broker)
    assert ear.listener.subscribe(["c"])

    ear.listener.close()

    assert single_broker.client.pubsub_numsub("c") == [(b"c", 0)]
    assert listeners() <= before
