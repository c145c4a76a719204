"""The webhook of the tests."""

from collections.abc import Iterator

import pytest

from alerts import webhook
from tests.alerts.receiver import SECRET, Receiver
from tests.support.waiting import PATIENCE_S


@pytest.fixture
def receiver(settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setattr(webhook, "TIMEOUT_S", PATIENCE_S)
    receiver = Receiver()
    settings.RUNQY_ALERT_WEBHOOK_URL, settings.RUNQY_ALERT_WEBHOOK_SECRET = receiver.url, SECRET
    yield receiver
    receiver.server.shutdown()
    receiver.server.server_close()
