"""The benchmark's servers start and serve what is measured: nothing else runs them automatically."""

import pytest

from benchmarks.scenarios import ENQUEUE, ENQUEUE_BATCH, Scenario
from benchmarks.stack import running_stack
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow


def test_the_server_and_the_bare_application_serve_the_measured_requests() -> None:
    with (
        running_stack() as stack,
        stack.web(processes=1) as server,
        stack.web(application="benchmarks.apps.bare_asgi:application", processes=1) as bare,
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
