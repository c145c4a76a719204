"""The benchmark's servers start and serve what is measured: they are otherwise only run by hand."""

from benchmarks.scenarios import ENQUEUE, ENQUEUE_BATCH, Scenario
from benchmarks.stack import running_stack


def test_the_server_and_the_bare_application_serve_the_measured_requests() -> None:
    with (
        running_stack() as stack,
        stack.web(processes=1) as server,
        stack.web(application="benchmarks.apps.bare_asgi:application", processes=1) as bare,
    ):
        loads = [
            Scenario(server=server, request=ENQUEUE, connections=2).run(0.3),
            Scenario(server=server, request=ENQUEUE_BATCH, connections=1).run(0.3),
            Scenario(server=bare, request=ENQUEUE, connections=2).run(0.3),
        ]

    assert all(load.responses and not load.failures for load in loads)
