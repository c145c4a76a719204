"""How commands travel: one round trip, scripts loaded when unknown, errors in their place."""

import pytest

from runqy.broker.broker import Broker
from runqy.broker.connection import RedisTarget
from runqy.broker.links import checked
from runqy.broker.scripts import Script, command
from runqy.errors import BrokerCommandRefused, BrokerUnavailable
from tests.support.servers import free_port

SET = Script("set", "-- Set.\n-- KEYS key\n-- ARGV value\nreturn redis.call('SET', KEYS[1], ARGV[1])")


def test_replies_come_in_the_order_of_the_commands_whatever_node_they_go_to(broker: Broker) -> None:
    commands = [SET(key=f"k{i}", value=str(i)) for i in range(20)]

    broker.link.execute(commands)
    replies = broker.link.execute([command("GET", f"k{i}", key=f"k{i}") for i in range(20)])

    assert replies == [str(i).encode() for i in range(20)]


def test_a_script_that_the_server_forgot_is_loaded_and_run_once(broker: Broker) -> None:
    count = Script("count", "-- Count.\n-- KEYS key\nreturn redis.call('INCR', KEYS[1])")
    broker.link.execute([count(key="n")])
    broker.link.execute([command("SCRIPT", "FLUSH", key=f"k{i}") for i in range(20)])

    replies = broker.link.execute([command("SET", "a", "b", key="a"), count(key="n")])

    assert replies == [b"OK", 2]


def test_an_error_stands_in_the_place_of_its_command(single_broker: Broker) -> None:
    good, bad, last = single_broker.link.execute(
        [command("SET", "a", "1", key="a"), command("LPUSH", "a", "x", key="a"), command("GET", "a", key="a")]
    )

    assert (good, last) == (b"OK", b"1")
    with pytest.raises(BrokerCommandRefused, match="WRONGTYPE"):
        checked(bad)


def test_a_server_that_is_away_is_unavailable() -> None:
    broker = Broker.connect(RedisTarget(addresses=(("127.0.0.1", free_port()),)))

    with pytest.raises(BrokerUnavailable):
        broker.measure_clock()


def test_a_missing_or_unknown_argument_is_a_type_error_before_redis_is_asked() -> None:
    with pytest.raises(TypeError, match=r"missing \['value'\], unknown \['valeu'\]"):
        SET(key="k", valeu="typo")
