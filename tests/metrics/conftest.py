"""A page that is built for each request, and queues to be shown on it."""

from typing import Any

import pytest

from queues.models import QueueSource
from queues.operations import save_queue
from runqy.server.metrics import exposition, state
from tests.queues.samples import spec
from tests.webhooks.receiver import receiver

__all__ = ["receiver"]


@pytest.fixture(autouse=True)
def _builds_each_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposition, "MAX_AGE_S", 0.0)
    monkeypatch.setattr(state, "MEMORY_MAX_AGE_S", 0.0)


@pytest.fixture
def queues(configuration: None) -> Any:
    """Define a queue, and one with two sub-queues."""
    save_queue(spec=spec("mail"), source=QueueSource.API)
    save_queue(spec=spec("inference", "high:10", "low:3"), source=QueueSource.API)
