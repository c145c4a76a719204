"""Fixtures of the tests of ends."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from queues.models import QueueSource
from queues.operations import save_queue as save_spec
from runqy.broker.broker import Broker
from tasks import ends as collector
from tasks.ends import CollectedEnd, Consumer
from tests.queues.samples import spec


def consumer(write: Callable[[Sequence[CollectedEnd]], object]) -> Consumer:
    """Return a consumer that needs nothing of Redis."""
    return Consumer(lambda ends: lambda: write(ends) and None)


@pytest.fixture
def broker(single_broker: Broker, configuration: None) -> Broker:
    """Return a broker on an empty server; the database starts empty too."""
    return single_broker


@pytest.fixture
def save_queue(broker: Broker) -> Callable[..., Any]:
    """Return a function that saves a queue with these sub-queues, written `high:10`."""
    return lambda name, *sub_queues: save_spec(spec=spec(name, *sub_queues), source=QueueSource.API)


@pytest.fixture
def consumed(monkeypatch: pytest.MonkeyPatch) -> list[CollectedEnd]:
    """Return a list of the ends that a consumer has been given."""
    ends: list[CollectedEnd] = []
    monkeypatch.setattr(collector, "_consumers", [consumer(ends.extend)])
    return ends
