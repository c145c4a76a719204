"""A subscription with redis-py whose messages tests wait for, however late they come."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import redis as redis_py
from redis.client import PubSub

from tests.support.waiting import eventually


class Subscription:
    """A subscription that keeps messages which arrive while it waits for a confirmation."""

    def __init__(self, pubsub: PubSub) -> None:
        self._pubsub = pubsub
        self._received: deque[tuple[str, bytes]] = deque()

    def subscribe(self, channel: str) -> None:
        self._pubsub.subscribe(channel)
        self._receive_until(lambda message: message["type"] == "subscribe")

    def next(self) -> tuple[str, bytes]:
        if not self._received:
            self._receive_until(lambda message: message["type"] == "message")
        return self._received.popleft()

    def has_none(self, *, for_s: float) -> bool:
        """Return whether no message comes for a while."""
        while message := self._pubsub.get_message(timeout=for_s):
            self._keep(message)
        return not self._received

    def _receive_until(self, is_last: Callable[[Any], bool]) -> None:
        def receive() -> bool:
            message = self._pubsub.get_message(timeout=1)
            self._keep(message)
            return bool(message and is_last(message))

        eventually(receive, what=lambda: "no message came")

    def _keep(self, message: Any) -> None:
        if message and message["type"] == "message":
            self._received.append((message["channel"].decode(), message["data"]))


@contextmanager
def subscribed(client: "redis_py.Redis | redis_py.RedisCluster", *channels: str) -> Iterator[Subscription]:
    pubsub = client.pubsub()
    subscription = Subscription(pubsub)
    try:
        for channel in channels:
            subscription.subscribe(channel)
        yield subscription
    finally:
        pubsub.close()
