"""The delays of a worker between attempts to register."""

import asyncio
import itertools
import uuid
from functools import partial
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from runqy import clock
from tests.support import event_loop
from tests.support.servers import free_port
from tests.workers.fake_server import API_KEY, FakeServer
from workers.runtime import registration
from workers.runtime.registration import RegistrationLoop
from workers.runtime.settings import WorkerSettings


@pytest.fixture(autouse=True)
def _each_attempt_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an hour pass between any two failures, so that none counts as a repetition."""
    hours_s = itertools.count(step=4000.0)
    monkeypatch.setattr(clock, "monotonic_s", lambda: next(hours_s))


def waits_s(server_url: str, count: int = 7) -> list[float]:
    """Return the first delays of a worker that is not registered, without waiting for them."""
    settings = WorkerSettings(
        server_url=server_url,
        api_key=API_KEY,
        queues=("mail",),
        bootstrap_retry_delay_s=2,
        deployment_dir=Path("unused"),
    )

    async def register() -> list[float]:
        once = partial(registration.register, settings, "mail", worker_id="w1", instance_id=str(uuid.uuid4()))
        registration_loop = RegistrationLoop(settings, once, on_disabled=lambda: None, on_wait=lambda _: None)
        with capture_logs() as entries:
            asking = asyncio.ensure_future(registration_loop.register())
            async with asyncio.timeout(30):
                while len(entries) < count:
                    registration_loop.retry_now.set()
                    await asyncio.sleep(0.005)
            asking.cancel()
            await asyncio.wait([asking])
        return [entry["next_try_s"] for entry in entries if entry["event"] == "not_registered"]

    return event_loop.run(register())


@pytest.mark.parametrize(
    "code", ["vault_unavailable", "vaults_locked", "configuration_unavailable", "configuration_unconfirmed"]
)
def test_a_server_without_configuration_is_tried_every_few_seconds(server: FakeServer, code: str) -> None:
    server.status, server.code = 503, code

    waits = waits_s(server.url)

    assert waits[0] <= 2.5
    assert all(3.7 <= wait <= 6.3 for wait in waits[3:])


@pytest.mark.parametrize(("status", "code"), [(503, "broker_unavailable"), (500, "vault_unavailable"), (409, "x")])
def test_attempts_at_a_failing_server_become_less_frequent(server: FakeServer, status: int, code: str) -> None:
    server.status, server.code = status, code

    assert waits_s(server.url)[-1] >= 22


def test_attempts_to_reach_a_server_become_less_frequent() -> None:
    assert waits_s(f"http://127.0.0.1:{free_port()}")[-1] >= 22
