"""Fixtures of the tests of configuration routes."""

import pytest

from queues import deletion
from queues.models import QueueSource
from queues.operations import save_queue
from tests.api.client import ApiClient
from tests.queues.samples import spec


@pytest.fixture
def client(configuration: None, monkeypatch: pytest.MonkeyPatch) -> ApiClient:
    """Return an administrator's client; there is a queue with two sub-queues, and no other process enqueues."""
    monkeypatch.setattr(deletion, "PROPAGATION_S", 0)
    save_queue(spec=spec("inference", "high:10", "low:3"), source=QueueSource.ADMIN)
    return ApiClient()
