"""Workers that drain, restart their children or stop on request, and those that end by themselves."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import redis as redis_py

from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.tasks.reader import find_task
from runqy.broker.tasks.record import TaskRecord
from runqy.broker.workers.heartbeats import list_live_and_lost_records
from runqy.broker.workers.records import WorkerAction, request_action
from tests.support.maintenance_duties import MovingClock
from tests.support.waiting import eventually, wait_until
from tests.workers.conftest import StartWorker
from tests.workers.processes import add_task, wait_for_record, wait_for_state, wait_task
from workers.runtime.settings import WorkerSettings
from workers.runtime.startup_limits import ExitLimits

MAIL = QueueKeys("mail")
Ask = Callable[..., str]


@pytest.fixture
def ask(single_broker: Broker) -> Ask:
    """Return a function that asks the only worker, once it is ready, for an action."""

    def ask(action: WorkerAction, *, state: str = "ready", request_id: str = "1") -> str:
        worker_id = wait_for_record(single_broker, state).worker_id
        single_broker.run(request_action(worker_id, action, request_id=request_id))
        return worker_id

    return ask


def read_all(broker: Broker, task_ids: list[str]) -> list[TaskRecord]:
    return [broker.run(find_task(broker, task_id)) for task_id in task_ids]


@pytest.mark.slow
def test_a_drained_worker_lets_tasks_end_however_long_they_take(
    single_broker: Broker, start_worker: StartWorker, tmp_path: Path, ask: Ask
) -> None:
    worker = start_worker(RUNQY_SHUTDOWN_TIMEOUT="0s")
    task = wait_task(tmp_path)
    running = add_task(single_broker, task)
    eventually(Path(task["started"]).exists)

    ask(WorkerAction.DRAIN)
    record = wait_for_record(single_broker, "draining")
    later = add_task(single_broker, 1)
    Path(task["until"]).touch()
    status = worker.process.wait(60)

    assert (status, record.reason) == (0, "a drain was requested")
    assert wait_for_state(single_broker, running, "completed", within_s=1).result == b'"waited"'
    assert wait_for_state(single_broker, later, "pending", within_s=1)
    assert list_live_and_lost_records(single_broker) == ([], [])


@pytest.mark.slow
def test_a_drain_under_load_loses_and_kills_no_task(
    single_broker: Broker, redis: redis_py.Redis, start_worker: StartWorker, ask: Ask
) -> None:
    first = start_worker(RUNQY_PROCESSES="2", RUNQY_CONCURRENCY="10")
    ids = [add_task(single_broker, {"do": "pause", "s": 0.01}) for _ in range(200)]
    wait_until(lambda: redis.zcard(MAIL.completed) >= 20)

    ask(WorkerAction.DRAIN)
    status = first.process.wait(60)
    done = redis.zcard(MAIL.completed)

    assert status == 0
    assert redis.llen(MAIL.pending) + done == len(ids)  # none is left with the worker
    start_worker(RUNQY_PROCESSES="2")
    wait_until(lambda: redis.zcard(MAIL.completed) == len(ids))
    assert {(task.counted_attempts, task.retried, task.child_deaths) for task in read_all(single_broker, ids)} == {
        (1, 0, 0)
    }


@pytest.mark.slow
def test_a_worker_that_drains_can_be_stopped_and_gives_its_tasks_back(
    single_broker: Broker, start_worker: StartWorker, tmp_path: Path, ask: Ask
) -> None:
    worker = start_worker(RUNQY_SHUTDOWN_TIMEOUT="100ms")
    started = tmp_path / "started"
    running = add_task(single_broker, {"do": "hang", "started": str(started)})
    eventually(started.exists)

    ask(WorkerAction.DRAIN)
    ask(WorkerAction.STOP, state="draining")

    assert worker.process.wait(60) == 0
    record = wait_for_state(single_broker, running, "pending", within_s=1)
    assert (record.retried, record.child_deaths) == (0, 0)


@pytest.mark.slow
def test_a_requested_stop_waits_for_tasks_until_the_shutdown_timeout(
    single_broker: Broker, start_worker: StartWorker, tmp_path: Path, ask: Ask
) -> None:
    worker = start_worker(RUNQY_SHUTDOWN_TIMEOUT="1h")
    task = wait_task(tmp_path)
    running = add_task(single_broker, task)
    eventually(Path(task["started"]).exists)

    ask(WorkerAction.STOP)
    ask(WorkerAction.STOP, state="stopping", request_id="2")  # is no second signal
    worker_id = ask(WorkerAction.DRAIN, state="stopping")
    beats = wait_for_record(single_broker, "stopping").last_beat_s
    wait_until(lambda: wait_for_record(single_broker, "stopping").last_beat_s > beats)
    assert wait_for_record(single_broker, "stopping").reason == "the worker is stopping"
    Path(task["until"]).touch()

    assert worker.process.wait(60) == 0
    assert wait_for_state(single_broker, running, "completed", within_s=1).worker_id == worker_id


@pytest.mark.slow
def test_a_drained_worker_that_stops_says_that_it_was_drained(
    single_broker: Broker, start_worker: StartWorker, tmp_path: Path, ask: Ask
) -> None:
    worker = start_worker(RUNQY_SHUTDOWN_TIMEOUT="1h")
    task = wait_task(tmp_path)
    add_task(single_broker, task)
    eventually(Path(task["started"]).exists)

    ask(WorkerAction.DRAIN)
    ask(WorkerAction.STOP, state="draining")
    record = wait_for_record(single_broker, "stopping")
    Path(task["until"]).touch()

    assert (worker.process.wait(60), record.reason) == (0, "a drain was requested")


@pytest.mark.slow
def test_children_are_restarted_between_two_tasks_once_for_each_request(
    single_broker: Broker, start_worker: StartWorker, tmp_path: Path, ask: Ask
) -> None:
    start_worker()
    task = wait_task(tmp_path)
    running = add_task(single_broker, task)
    before = eventually(lambda: Path(task["started"]).exists() and Path(task["started"]).read_text())

    def find_pid() -> str:
        done = wait_for_state(single_broker, add_task(single_broker, {"do": "pid"}), "completed")
        return (done.result or b"").decode()

    ask(WorkerAction.RESTART)
    wait_for_record(single_broker, "restarting")
    Path(task["until"]).touch()
    done, after = wait_for_state(single_broker, running, "completed"), find_pid()
    beats = wait_for_record(single_broker, "ready").last_beat_s
    wait_until(lambda: wait_for_record(single_broker, "ready").last_beat_s > beats)

    assert (done.retried, done.child_deaths) == (0, 0)
    assert after == find_pid() != before  # the request is still there, but was carried out
    ask(WorkerAction.RESTART, request_id="2")
    eventually(lambda: find_pid() != after)


@pytest.mark.slow
def test_a_worker_runs_no_more_than_its_number_of_tasks(
    single_broker: Broker, redis: redis_py.Redis, start_worker: StartWorker
) -> None:
    ids = [add_task(single_broker, n) for n in range(10)]

    worker = start_worker(RUNQY_MAX_TASKS="3", RUNQY_CONCURRENCY="2")

    assert worker.process.wait(120) == 0
    assert sorted(task.state for task in read_all(single_broker, ids)) == ["completed"] * 3 + ["pending"] * 7
    assert worker.wait_for("draining")["reason"] == "it has run 3 tasks (RUNQY_MAX_TASKS)"


@pytest.mark.slow
def test_an_idle_worker_deregisters_and_exits(single_broker: Broker, start_worker: StartWorker) -> None:
    worker = start_worker(RUNQY_IDLE_EXIT="1s")
    done = add_task(single_broker, 1)

    assert worker.process.wait(120) == 0
    assert single_broker.run(find_task(single_broker, done)).state == "completed"
    assert list_live_and_lost_records(single_broker) == ([], [])
    assert worker.wait_for("draining")["reason"] == "it was idle for 1 s (RUNQY_IDLE_EXIT)"


SETTINGS = WorkerSettings(server_url="http://localhost", api_key="x", queues=("mail",), deployment_dir=Path("/nowhere"))


def test_time_without_tasks_counts_from_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = MovingClock(monkeypatch)
    limits = ExitLimits(replace(SETTINGS, idle_exit_s=60))

    clock.advance(50)
    assert limits.find_reason(is_busy=True, taken=[1]) == ""
    clock.advance(50)
    assert limits.find_reason(is_busy=False, taken=[2]) == ""  # one ran since
    clock.advance(61)

    assert limits.find_reason(is_busy=False, taken=[2]) == "it was idle for 1 min (RUNQY_IDLE_EXIT)"


def test_without_limits_a_worker_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = MovingClock(monkeypatch)
    limits = ExitLimits(SETTINGS)
    clock.advance(10**8)

    assert (limits.are_any, limits.find_reason(is_busy=False, taken=[10**6])) == (False, "")
