"""Sending commands: one round trip, unknown scripts loaded, errors returned as replies."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import redis as redis_py

from runqy.broker.broker import Broker
from runqy.broker.replies import check_reply
from runqy.broker.request import Request
from runqy.broker.scripts import Script, command
from runqy.broker.tasks.finish import requeue
from runqy.core.environment.connection_urls import RedisTarget
from runqy.errors import BrokerCommandRefused, BrokerUnavailable
from tests.support.event_loop import run_with_broker
from tests.support.fake_redis import FakeRedis
from tests.support.links import execute
from tests.support.redis_client import redis_of
from tests.support.servers import ValkeyServer, free_port
from tests.support.tasks import put, take_one

pytestmark = pytest.mark.slow

READ = Script("read", "#!lua flags=no-writes\n-- Read.\n-- KEYS key\nreturn redis.call('GET', KEYS[1])")
SET = Script("set", "-- Set.\n-- KEYS key\n-- ARGV value\nreturn redis.call('SET', KEYS[1], ARGV[1])")


def test_replies_come_in_the_order_of_the_commands_whatever_node_they_go_to(broker: Broker) -> None:
    commands = [SET(key=f"k{i}", value=str(i)) for i in range(20)]

    execute(broker, *commands)
    replies = execute(broker, *(command("GET", f"k{i}", key=f"k{i}") for i in range(20)))

    assert replies == [str(i).encode() for i in range(20)]


def test_a_script_that_the_server_forgot_is_loaded_and_run_once(broker: Broker) -> None:
    count = Script("count", "-- Count.\n-- KEYS key\nreturn redis.call('INCR', KEYS[1])")
    execute(broker, count(key="n"))
    execute(broker, *(command("SCRIPT", "FLUSH", key=f"k{i}") for i in range(20)))

    replies = execute(broker, command("SET", "a", "b", key="a"), count(key="n"))

    assert replies == [b"OK", 2]


def test_an_error_is_returned_as_the_reply_of_its_command(single_broker: Broker) -> None:
    good, bad, last = execute(
        single_broker,
        command("SET", "a", "1", key="a"),
        command("LPUSH", "a", "x", key="a"),
        command("GET", "a", key="a"),
    )

    assert (good, last) == (b"OK", b"1")
    with pytest.raises(BrokerCommandRefused, match="WRONGTYPE"):
        check_reply(bad)


@pytest.mark.parametrize("plane", ["threads", "loop"])
def test_a_lost_reply_leaves_only_the_outcome_of_a_write_unknown(plane: str) -> None:
    def request(*args: str, is_repeatable: bool = False) -> Request[bytes]:
        return Request((command(*args, key="k"),), lambda replies: replies[0], is_repeatable=is_repeatable)

    requests = {
        "read": request("GET", "k"),
        "write": request("SET", "k", "v"),
        "repeatable write": request("SET", "k", "v", is_repeatable=True),
        "script": Request((SET(key="k", value="v"),), lambda replies: replies[0]),
        "script that reads": Request((READ(key="k"),), lambda replies: replies[0]),
    }

    def failure(name: str, target: RedisTarget) -> str:
        if plane == "loop":
            with pytest.raises(BrokerUnavailable) as raised:
                run_with_broker(target, lambda broker: broker.send(requests[name]))
        else:
            broker = Broker(target)
            with pytest.raises(BrokerUnavailable) as raised:
                broker.run(requests[name])
            broker.close()
        return raised.value.code

    nowhere = RedisTarget(addresses=(("127.0.0.1", free_port()),))
    with FakeRedis(lambda received: b"+OK\r\n" if received[0] == b"CLIENT" else server.drop()) as server:
        codes = {name: failure(name, server.target) for name in requests}

    assert codes == {
        "read": "broker_unavailable",
        "write": "outcome_unknown",
        "repeatable write": "outcome_unknown",
        "script": "outcome_unknown",
        "script that reads": "broker_unavailable",
    }
    assert {failure(name, nowhere) for name in requests} == {"broker_unavailable"}


def test_a_server_that_is_away_is_unavailable() -> None:
    broker = Broker(RedisTarget(addresses=(("127.0.0.1", free_port()),)))

    with pytest.raises(BrokerUnavailable):
        broker.measure_clock()


def test_a_cluster_without_a_responding_node_is_unavailable() -> None:
    server = ValkeyServer("--cluster-enabled", "yes").start()
    with server.client() as client:
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
    target = RedisTarget(addresses=(("127.0.0.1", server.port),), mode="cluster")
    broker = Broker(target)
    server.stop()

    with pytest.raises(BrokerUnavailable):
        broker.measure_clock()


def test_a_server_without_replicas_is_temporarily_unavailable(own_server: ValkeyServer) -> None:
    broker = Broker(own_server.target)
    put(broker, "t1")
    lease = take_one(broker).lease
    redis_of(broker).config_set("min-replicas-to-write", 1)

    with pytest.raises(BrokerUnavailable, match="NOREPLICAS"):
        put(broker, "t2")
    with pytest.raises(BrokerUnavailable, match="NOREPLICAS"):
        broker.run(requeue(lease, now_ns=broker.now_ns()))


def test_a_server_that_cannot_save_is_temporarily_unavailable(own_server: ValkeyServer) -> None:
    broker = Broker(own_server.target)
    put(broker, "t1")
    (own_server.folder / "dump.rdb" / "in the way").mkdir(parents=True)
    redis_of(broker).config_set("save", "3600 1")
    redis_of(broker).bgsave()
    while redis_of(broker).info("persistence")["rdb_last_bgsave_status"] == "ok":
        time.sleep(0.01)

    with pytest.raises(BrokerUnavailable, match="MISCONF"):
        put(broker, "t2")


def test_a_server_that_is_busy_with_a_script_is_temporarily_unavailable(own_server: ValkeyServer) -> None:
    broker = Broker(own_server.target)
    redis_of(broker).config_set("busy-reply-threshold", 1)
    endless = threading.Thread(target=_run_until_killed, args=(own_server.client(),))
    endless.start()

    with pytest.raises(BrokerUnavailable, match="BUSY"):
        _ask_until_refused(broker)

    own_server.client().script_kill()
    endless.join()


def _ask_until_refused(broker: Broker) -> None:
    """Ask Redis something again and again."""
    while True:
        broker.measure_clock()


def _run_until_killed(client: redis_py.Redis) -> None:
    """Keep Redis busy."""
    with pytest.raises(redis_py.ResponseError, match="killed"):
        client.eval("while true do end", 0)


def test_a_missing_or_unknown_argument_is_a_type_error_before_any_request() -> None:
    with pytest.raises(TypeError, match=r"missing \['value'\], unknown \['valeu'\]"):
        SET(key="k", valeu="typo")


def test_an_idle_connection_is_checked_before_it_is_used(
    single_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    single_broker.measure_clock()
    redis_of(single_broker).client_kill_filter(_type="normal", skipme=True)
    assert execute(single_broker, command("ECHO", "hello", key=None)) == [b"hello"]


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # threads of other tests may linger
def test_a_forked_process_does_not_speak_on_its_parents_connection(single_broker: Broker) -> None:
    own = execute(single_broker, command("CLIENT", "ID", key=None))
    reader, writer = os.pipe()

    pid = os.fork()
    if pid == 0:
        with os.fdopen(writer, "w") as pipe:
            print(*execute(single_broker, command("CLIENT", "ID", key=None)), file=pipe, flush=True)
        os._exit(0)
    os.close(writer)
    os.waitpid(pid, 0)

    with os.fdopen(reader) as pipe:
        childs = [int(pipe.read())]
    assert childs != own
    assert execute(single_broker, command("CLIENT", "ID", key=None)) == own


def test_threads_share_no_connection(single_broker: Broker) -> None:
    def count(name: str) -> list[object]:
        return [execute(single_broker, command("ECHO", f"{name}{i}", key=None))[0] for i in range(200)]

    with ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(count, "abcdefgh"))

    assert responses == [[f"{name}{i}".encode() for i in range(200)] for name in "abcdefgh"]


@pytest.mark.parametrize("garbage", [b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x15\x03\x03"])
@pytest.mark.parametrize("mode", ["single", "sentinel", "cluster"])
@pytest.mark.parametrize("is_greeted", [False, True])
def test_a_server_that_speaks_another_protocol_makes_redis_unavailable(
    mode: str, garbage: bytes, is_greeted: bool
) -> None:
    def reply(command: list[bytes]) -> bytes:
        return b"+OK\r\n" if is_greeted and command[0] == b"CLIENT" else garbage

    with FakeRedis(reply) as fake:
        target = replace(fake.target, mode=mode, master_name="runqy" if mode == "sentinel" else "")
        with pytest.raises(BrokerUnavailable):
            Broker(target).measure_clock()
