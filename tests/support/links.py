"""See and change what brokers of threads send to Redis."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from msgspec import structs

from runqy.broker.async_broker import RedisClock
from runqy.broker.broker import Broker
from runqy.broker.health import ping
from runqy.broker.replies import Reply
from runqy.broker.scripts import Command
from runqy.errors import BrokerUnavailable
from runqy.redis_connection import get_broker
from tests.support.waiting import wait_until

Execute = Callable[[Sequence[Command]], Awaitable[list[Reply]]]


def link_of(broker: Broker) -> Any:
    """Return what routes the broker's commands to servers."""
    return broker.on_loop._router  # noqa: SLF001 (the tests' way in)


def execute(broker: Broker, *commands: Command) -> list[Reply]:
    """Run commands in one round trip. Return their replies; those of commands that failed are errors.

    Raise BrokerUnavailable if the server of one of them cannot be reached.
    """

    async def send() -> list[Reply]:
        replies: list[Reply] = await link_of(broker).execute(commands, is_bulky=False)
        return replies

    received = broker.run(send())
    for reply in received:
        if isinstance(reply, BrokerUnavailable):
            raise reply
    return received


def wrap_link(
    monkeypatch: pytest.MonkeyPatch,
    broker: Broker,
    wrapper: Callable[[Execute, Sequence[Command]], Awaitable[list[Reply]]],
) -> None:
    """Have a coroutine function send the commands of a broker, by what it gets first. It may raise their error."""
    link = link_of(broker)
    original = link.execute

    async def executing(commands: Sequence[Command], *, is_bulky: bool) -> list[Reply]:
        try:
            return await wrapper(lambda sent: original(sent, is_bulky=is_bulky), commands)
        except BrokerUnavailable as error:
            return [error] * len(commands)

    monkeypatch.setattr(link, "execute", executing)


def count_round_trips(monkeypatch: pytest.MonkeyPatch, broker: Broker) -> list[int]:
    """Return a list that gets the number of commands of each round trip of a broker."""
    made: list[int] = []

    async def count(execute: Execute, commands: Sequence[Command]) -> list[Reply]:
        made.append(len(commands))
        return await execute(commands)

    wrap_link(monkeypatch, broker, count)
    return made


def reset_clock(broker: Broker) -> None:
    """Forget what was measured, as a process begins."""
    on_loop = broker.on_loop
    on_loop._clock = forgotten = RedisClock()  # noqa: SLF001 (the tests' way in)
    on_loop.now_ns = forgotten.now_ns


def share_clock(broker: Broker) -> None:
    """Give a broker the clock of the process's own one: what a test enqueues now is due for a page too."""
    ours, theirs = broker.on_loop, get_broker().on_loop
    ours._clock = theirs._clock  # noqa: SLF001 (as above)
    ours.now_ns = theirs.now_ns


def wait_for_redis(broker: Broker | None = None) -> None:
    """Wait until a broker, or that of the process, is connected. After a failure it tries again in the background."""

    def is_connected() -> bool:
        try:
            for request in (ping(), structs.replace(ping(), is_bulky=True)):  # they have a connection each
                (broker or get_broker()).run(request)
        except BrokerUnavailable:
            return False
        return True

    wait_until(is_connected)
