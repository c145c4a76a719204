"""Requests of megabytes: they may take longer, are sent one at a time, and small ones do not suffer from them."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from runqy.broker.async_broker import AsyncBroker
from runqy.broker.connection import async_connection
from runqy.broker.constants import LARGE_BYTES
from runqy.broker.request import Request
from runqy.broker.scripts import command
from runqy.errors import BrokerUnavailable, OutcomeUnknown
from tests.support.event_loop import run_with_broker, wait_until
from tests.support.fake_redis import FakeRedis

LARGE = b"x" * 5 * LARGE_BYTES
REPLY_TIMEOUT_S = 0.2


def append(value: bytes, *, is_bulky: bool = False) -> Request[bytes]:
    """Return a request that is not repeated, whose reply is the beginning of its value."""
    return Request((command("APPEND", "k", value, key="k"),), lambda replies: replies[0], is_bulky=is_bulky)


class HeldReplies:
    """Replies to a value that begins with x when that is released, to others at once."""

    def __init__(self) -> None:
        self.may_reply = threading.Event()
        self.held = self.most_held = 0
        self._lock = threading.Lock()

    def reply(self, received: list[bytes]) -> bytes:
        if received[2].startswith(b"x"):
            with self._lock:
                self.held += 1
                self.most_held = max(self.most_held, self.held)
            self.may_reply.wait(60)
            with self._lock:
                self.held -= 1
        return b"$1\r\n%b\r\n" % received[2][:1]


@pytest.fixture
def replies() -> Iterator[HeldReplies]:
    replies = HeldReplies()
    yield replies
    replies.may_reply.set()


async def connect(broker: AsyncBroker, *requests: Request[bytes]) -> None:
    """Connect, however long it takes."""
    for request in requests:
        while True:
            try:
                await broker.send(request)
            except BrokerUnavailable:
                await asyncio.sleep(0.05)
            else:
                break


@pytest.fixture
def _slow_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow large requests a minute, which a busy machine cannot exceed."""
    monkeypatch.setattr(async_connection, "LARGE_BYTES_PER_S", len(LARGE) // 60)


@pytest.mark.usefixtures("_slow_rate")
def test_silence_lasts_longer_while_a_server_has_a_large_request(replies: HeldReplies) -> None:
    async def act(broker: AsyncBroker) -> list[bytes]:
        without_large = AsyncBroker.connect(server.target, reply_timeout_s=REPLY_TIMEOUT_S)
        await connect(without_large, append(b"c"))
        await connect(broker, append(b"c"), append(b"c" * LARGE_BYTES))
        requests = [asyncio.ensure_future(broker.send(append(value))) for value in (LARGE, b"xs")]
        await wait_until(lambda: replies.held == len(requests))

        with pytest.raises(OutcomeUnknown):
            await without_large.send(append(b"x"))

        assert not any(request.done() for request in requests)
        replies.may_reply.set()
        await without_large.close()
        return await asyncio.gather(*requests)

    with FakeRedis(replies.reply) as server:
        assert run_with_broker(server.target, act, reply_timeout_s=REPLY_TIMEOUT_S) == [b"x", b"x"]


def test_a_server_that_never_replies_to_a_large_request_loses_its_connection(replies: HeldReplies) -> None:
    async def act(broker: AsyncBroker) -> None:
        await connect(broker, append(b"c" * LARGE_BYTES))
        with pytest.raises(OutcomeUnknown):
            await broker.send(append(LARGE[: 2 * LARGE_BYTES]))

    with FakeRedis(replies.reply) as server:
        run_with_broker(server.target, act, reply_timeout_s=REPLY_TIMEOUT_S)


def test_large_requests_are_sent_one_at_a_time_and_others_pass_them(replies: HeldReplies) -> None:
    async def act(broker: AsyncBroker) -> list[bytes]:
        large = [asyncio.ensure_future(broker.send(append(LARGE[: 2 * LARGE_BYTES]))) for _ in range(5)]
        await wait_until(lambda: replies.held == 1)
        large[0].cancel()  # it keeps its connection: the server has its request
        large[-1].cancel()  # it was not sent
        with suppress(asyncio.CancelledError):
            await large[0]

        assert await broker.send(append(b"s")) == b"s"
        assert await broker.send(append(b"b", is_bulky=True)) == b"b"

        replies.may_reply.set()
        return await asyncio.gather(*large[1:-1])

    with FakeRedis(replies.reply) as server:
        assert run_with_broker(server.target, act, reply_timeout_s=60) == [b"x"] * 3
        assert replies.most_held == 1
        assert len(server.connections) == 3
