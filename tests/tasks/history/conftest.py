"""Fixtures of the tests of the history of runs."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from queues.models import QueueSource
from queues.operations import save_queue as save_spec
from runqy.broker.broker import Broker
from tests.queues.samples import spec


@pytest.fixture
def broker(single_broker: Broker, configuration: None) -> Broker:
    """Return a broker on an empty server; the database starts empty too, and threads may use it."""
    return single_broker


@pytest.fixture
def save_queue(broker: Broker) -> Callable[..., None]:
    """Return a function that saves a queue with these sub-queues, written `high:10`."""

    def save(name: str, *sub_queues: str, **deployment: Any) -> None:
        queue = spec(name, *sub_queues)
        save_spec(spec=replace(queue, deployment=replace(queue.deployment, **deployment)), source=QueueSource.API)

    return save
