"""What a real worker logs about its runs."""

import re

import pytest

from runqy.broker.broker import Broker
from runqy.broker.states import RunOutcome
from runqy.broker.streams.run_log import EndedRun, read_runs
from runqy.broker.tasks.reader import find_task
from tests.support.tasks import QUEUE
from tests.support.waiting import wait_until
from tests.workers.conftest import StartWorker
from tests.workers.fake_server import FakeServer
from tests.workers.processes import add_task
from tests.workers.repositories import Repository

pytestmark = pytest.mark.slow


def read_log(broker: Broker) -> dict[str, EndedRun]:
    """Return the runs of the log by their tasks; each has one."""
    entries = broker.run(read_runs(QUEUE, limit=100, now_ns=broker.now_ns())).entries
    runs = {entry.run.task_id: entry.run for entry in entries if entry.run is not None}
    assert len(runs) == len(entries)
    return runs


@pytest.mark.parametrize("mode", ["long_running", "one_shot"])
def test_runs_are_logged_with_commit_outcome_and_excerpts(
    single_broker: Broker, server: FakeServer, start_worker: StartWorker, task_repository: Repository, mode: str
) -> None:
    server.response["queue"]["mode"] = mode
    server.response["deployment"]["env_vars"] = {"MODE": mode}
    start_worker()
    done = add_task(single_broker, {"a": 1}, headers={"x-request-id": "r-17"})
    failed = add_task(single_broker, {"do": "fail", "text": "no such customer"})
    hung = add_task(single_broker, {"do": "hang", "started": "/dev/null"}, timeout_s=1)
    died = add_task(single_broker, {"do": "exit"})

    wait_until(lambda: len(read_log(single_broker)) == 4, 60)

    runs = read_log(single_broker)
    assert {task_id: run.outcome for task_id, run in runs.items()} == {
        done: RunOutcome.COMPLETED,
        failed: RunOutcome.FAILED,
        hung: RunOutcome.TIMED_OUT,
        died: RunOutcome.RETRIED,
    }
    assert {run.commit for run in runs.values()} == {task_repository.git("rev-parse", "HEAD")}
    assert {run.attempt for run in runs.values()} == {1}
    assert (runs[done].payload, runs[done].result, runs[done].request_id) == (b'{"a": 1}', b'{"a": 1}', "r-17")
    assert runs[failed].error.rstrip().endswith("ValueError: no such customer")
    assert runs[hung].ended_ns - runs[hung].started_ns >= 10**9


@pytest.mark.parametrize("mode", ["long_running", "one_shot"])
def test_of_a_crash_in_a_queue_that_hides_payloads_only_the_cause_is_kept(
    single_broker: Broker, server: FakeServer, start_worker: StartWorker, mode: str
) -> None:
    server.response["queue"]["mode"] = mode
    server.response["deployment"] |= {"hide_payloads": True, "env_vars": {"MODE": mode}}
    worker = start_worker()
    payload = {"do": "shout", "lines": ["a patient's name"], "dies": True}
    died = add_task(single_broker, payload, max_retry=0)

    wait_until(lambda: read_log(single_broker), 60)
    worker.stop()

    cause = "the child process was killed by SIGKILL: probably it, or the machine, ran out of memory"
    errors = {read_log(single_broker)[died].error, single_broker.run(find_task(single_broker, died)).error}
    assert {re.sub(r"\n\[it used .*\]", "", error) for error in errors} == {cause}
    assert "SIGKILL" in worker.log.read_text()
    assert "patient" not in worker.log.read_text()


def test_a_queue_that_hides_payloads_has_none_in_the_log(
    single_broker: Broker, server: FakeServer, start_worker: StartWorker
) -> None:
    server.response["deployment"]["hide_payloads"] = True
    start_worker()
    done = add_task(single_broker, {"a": 1})

    wait_until(lambda: read_log(single_broker), 60)

    run = read_log(single_broker)[done]
    assert (run.outcome, run.payload, run.result) == (RunOutcome.COMPLETED, None, None)
