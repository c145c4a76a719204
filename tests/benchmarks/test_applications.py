"""The benchmark's servers start and serve what is measured: nothing else runs them automatically."""

import asyncio

import pytest

from runqy.broker.keys import QueueKeys
from tests.support import environment
from tests.support.waiting import eventually
from tools.benchmarks import scale
from tools.benchmarks.scenarios import ENQUEUE, ENQUEUE_BATCH, Scenario
from tools.benchmarks.stack import running_stack

pytestmark = [pytest.mark.slow, pytest.mark.release]


def test_the_server_and_the_bare_application_serve_the_measured_requests() -> None:
    with (
        running_stack() as stack,
        stack.web(processes=1) as server,
        stack.web(application="tools.benchmarks.apps.bare_asgi:application", processes=1) as bare,
    ):
        for scenario in (
            Scenario(server=server, request=ENQUEUE, connections=2),
            Scenario(server=server, request=ENQUEUE_BATCH, connections=1),
            Scenario(server=bare, request=ENQUEUE, connections=2),
        ):
            eventually(lambda scenario=scenario: is_served(scenario))


def is_served(scenario: Scenario) -> bool:
    """Return whether there were responses in a moment, all of them good; a busy machine may need more time."""
    load = scenario.run(0.3)
    assert not load.failures
    return load.responses > 0


def test_simulated_workers_run_all_tasks(redis_server: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "TASKS", 300)
    monkeypatch.setattr(scale, "IDLE_S", 0.1)
    store = scale.Store("the tests' Redis", [environment.SERVER])

    cost, _ = asyncio.run(scale.run_workers(store, ["scale0", "scale1", "scale2"], 5, 1))

    assert cost.redis_us > 0
    with environment.SERVER.client() as client:
        assert [client.zcard(QueueKeys(f"scale{number}").completed) for number in range(3)] == [100, 100, 100]
