"""Fixtures of the tests of configuration routes."""

import pytest

from queues import removal
from queues.models import Source
from queues.operations import save_queue
from tests.api.client import ApiClient
from tests.queues.samples import spec


@pytest.fixture
def client(configuration: None, monkeypatch: pytest.MonkeyPatch) -> ApiClient:
    """Return an administrator's client; there is one queue with two sub-queues. Nothing else enqueues meanwhile."""
    monkeypatch.setattr(removal, "SETTLE_S", 0)
    save_queue(spec=spec("inference", "high:10", "low:3"), source=Source.ADMIN)
    return ApiClient()
