"""Patience with the tests' own Redis: on a busy machine a reply may take longer than a server waits for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from runqy.broker.async_broker import AsyncBroker
from runqy.broker.connection import redis_client
from tests.support.waiting import PATIENCE_S


@contextmanager
def patient_connections() -> Iterator[None]:
    """Let brokers that are made in the block wait for replies as long as tests wait for anything."""
    with (
        patch.multiple(redis_client, REPLY_TIMEOUT_S=PATIENCE_S, CONNECT_TIMEOUT_S=PATIENCE_S),
        patch.dict(AsyncBroker.connect.__kwdefaults__, reply_timeout_s=PATIENCE_S, connect_timeout_s=PATIENCE_S),
    ):
        yield
