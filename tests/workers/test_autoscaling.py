"""An autoscaler that follows the demand of a queue brings its workers from none to five and back to none."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from queues import demand, demand_estimates
from queues.demand import record_demand
from queues.models import QueueSource
from queues.operations import save_queue
from runqy.broker.broker import Broker
from runqy.broker.tasks.reader import find_task
from runqy.maintenance.failed_rows import RowFailures
from tests.api.client import ApiClient, content
from tests.queues.samples import spec
from tests.support.environment import CLIENT_KEY
from tests.support.waiting import wait_until
from tests.workers.conftest import StartWorker
from tests.workers.processes import WorkerProcess, add_task, wait_for_state, wait_task

pytestmark = pytest.mark.slow

MOST = 5
COOLDOWN_POLLS, STABILIZATION_POLLS = 3, 2


@dataclass
class Scaler:
    """KEDA and the HorizontalPodAutoscaler that it creates, by their documentation, with polls as the unit of time.

    KEDA itself scales between 0 and 1: up as soon as the trigger is active, down when it was inactive for the cooldown.
    Between 1 and the maximum the autoscaler decides: up at once, by 4 or to twice as many; down to the largest number
    that was desired within the stabilization window.
    """

    replicas: int = 0
    desired: list[int] = field(default_factory=list)
    inactive_polls: int = 0

    def poll(self, desired: int) -> int:
        """Return the number of replicas for what the trigger reports."""
        self.inactive_polls = 0 if desired else self.inactive_polls + 1
        self.desired = [*self.desired, min(max(desired, 1), MOST)][-STABILIZATION_POLLS:]
        if self.replicas == 0:
            self.replicas = min(desired, 1)
        elif self.inactive_polls > COOLDOWN_POLLS:
            self.replicas = 0
        elif self.desired[-1] > self.replicas:
            self.replicas = min(self.desired[-1], max(self.replicas + 4, self.replicas * 2))
        else:
            self.replicas = min(self.replicas, max(self.desired))
        return self.replicas


class Deployment:
    """The pods of a Deployment: it ends them by SIGTERM, the newest first, and kills none."""

    def __init__(self, start: Callable[[], WorkerProcess]) -> None:
        self._start = start
        self.running: list[WorkerProcess] = []
        self.ended: list[WorkerProcess] = []

    def scale(self, replicas: int) -> None:
        while len(self.running) < replicas:
            self.running.append(self._start())
        while len(self.running) > replicas:
            pod = self.running.pop()
            pod.process.terminate()
            self.ended.append(pod)


@pytest.mark.usefixtures("configuration")
def test_workers_follow_demand_from_none_to_five_to_none(
    single_broker: Broker, start_worker: StartWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A worker is wanted until no run has ended for two samples.
    for module in (demand, demand_estimates):
        monkeypatch.setattr(module, "SAMPLE_EVERY_S", 1)
    monkeypatch.setattr(demand_estimates, "_SHORTEST_S", 1)
    save_queue(spec=spec("mail"), source=QueueSource.API)
    scaler, pods = Scaler(), Deployment(lambda: start_worker(RUNQY_SHUTDOWN_TIMEOUT="120s"))
    client = ApiClient(CLIENT_KEY)

    def poll() -> int:
        record_demand(single_broker, RowFailures("demand"))
        found = content(client, "/api/cli/queues/mail/demand?target_wait=1ms")
        pods.scale(scaler.poll(found["desired_workers"]))
        return scaler.replicas

    assert poll() == 0
    sample = wait_task(tmp_path, "sample")
    first = add_task(single_broker, sample)
    tasks = [wait_task(tmp_path, str(number)) for number in range(MOST)]
    ids = [first, *(add_task(single_broker, task) for task in tasks)]

    # With no worker before, nothing is known of runs and slots: one worker shows them.
    assert poll() == 1
    wait_until(Path(sample["started"]).exists)
    Path(sample["until"]).touch()
    wait_for_state(single_broker, first, "completed")
    wait_until(lambda: poll() == MOST)
    wait_until(lambda: all(Path(task["started"]).exists() for task in tasks))

    # Three tasks end; whichever pods the Deployment ends may run the other two.
    for task in tasks[:3]:
        Path(task["until"]).touch()
    for task_id in ids[1:4]:
        wait_for_state(single_broker, task_id, "completed")
    wait_until(lambda: poll() == 2)
    assert [state_of(single_broker, task_id) for task_id in ids[4:]] == ["active", "active"]

    for task in tasks[3:]:
        Path(task["until"]).touch()
    for task_id in ids[4:]:
        wait_for_state(single_broker, task_id, "completed")
    wait_until(lambda: poll() == 0)

    assert [pod.process.wait(60) for pod in pods.ended] == [0] * MOST
    records = [single_broker.run(find_task(single_broker, task_id)) for task_id in ids]
    assert [(record.attempts, record.child_deaths) for record in records] == [(1, 0)] * len(ids)
    record_demand(single_broker, RowFailures("demand"))
    found = content(client, "/api/cli/queues/mail/demand")
    assert (found["workers"], found["slots"], found["slots_per_worker"], found["demand"]) == (0, 0, 1.0, 0)


def state_of(broker: Broker, task_id: str) -> str:
    return broker.run(find_task(broker, task_id)).state.value
