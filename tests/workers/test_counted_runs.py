"""A worker's numbers for /metrics reach Redis with its heartbeats, the last ones when it stops."""

from typing import Any

from runqy.broker.broker import Broker
from runqy.broker.states import RunOutcome
from runqy.broker.streams.run_counters import OutcomeCount, RunCount, RunCounters, RunTime, read_run_counters
from tests.workers.conftest import StartWorker
from tests.workers.processes import add_task, wait_for_state


def read_counters(broker: Broker) -> RunCounters:
    """Return the numbers of the workers' queue."""
    (counters,) = broker.run(read_run_counters(["mail"]))
    return counters


def test_a_stopped_worker_has_delivered_all_its_numbers(single_broker: Broker, start_worker: StartWorker) -> None:
    worker = start_worker()
    expected = {"env": "completed", "fail": "archived", "retry": "retry", "die": "retry"}
    for verb, state in expected.items():
        task: dict[str, Any] = {"do": verb, "text": "no"}
        wait_for_state(single_broker, add_task(single_broker, task), state)

    assert worker.stop() == 0

    counters = read_counters(single_broker)
    assert +counters.by_outcome() == {RunOutcome.COMPLETED: 1, RunOutcome.FAILED: 1, RunOutcome.RETRIED: 2}
    assert counters.by_outcome(OutcomeCount.FIRST) == counters.by_outcome()
    assert +counters.by_outcome(OutcomeCount.ENDED) == {RunOutcome.COMPLETED: 1, RunOutcome.FAILED: 1}
    assert sum(counters.by_bucket(RunTime.WAIT)) == 4
    assert sum(counters.by_bucket(RunTime.RUN)) == 4
    assert [
        counters[each] for each in (RunCount.CHILD_RESTARTS, RunCount.DEPLOYMENTS, RunCount.FAILED_DEPLOYMENTS)
    ] == [1, 1, 0]
