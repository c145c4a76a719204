"""Recording the end of a run, and delays before restarts."""

import json

import pytest

from runqy.broker.asynq_pb2 import TaskMessage
from runqy.broker.broker import Broker
from runqy.broker.constants import BATCH_MAX_BYTES
from runqy.broker.tasks.dequeue import QueueWeight, dequeue_tasks, plan_dequeue
from runqy.broker.tasks.finish import FinishOutcome
from runqy.broker.tasks.lease import Lease, LeasedTask
from runqy.broker.tasks.reader import find_task
from runqy.broker.tasks.record import TaskRecord
from tests.workers.processes import add_task
from workers.runtime.pool import RestartPolicy, to_run_result
from workers.runtime.protocol import decode_response
from workers.runtime.retries import QueuePolicy, backoff_s
from workers.runtime.settings import RestartSettings
from workers.runtime.task_runs import (
    Run,
    RunResult,
    RunStatus,
    add_streamed_result,
    finish_request,
    limit_result,
    plan_finishes,
)
from workers.runtime.task_stream import RunStream

POLICY = QueuePolicy(delay_s=100, max_delay_s=300)


def settled(
    broker: Broker, result: RunResult, policy: QueuePolicy = POLICY, **task: int
) -> tuple[FinishOutcome, TaskRecord]:
    task_id = add_task(broker, 1, **task)
    order = plan_dequeue([QueueWeight(queue="mail")], 1, worker_id="w1")
    (task,), _ = broker.run(dequeue_tasks(broker, order, now_ns=broker.now_ns()))
    outcome = broker.run(finish_request(Run(task=task, line=b""), result, policy, now_ns=broker.now_ns()))
    return outcome, broker.run(find_task(broker, task_id))


@pytest.mark.parametrize("is_shared", [False, True])
def test_a_task_without_retries_is_archived_at_once_when_its_process_dies(
    single_broker: Broker, is_shared: bool
) -> None:
    died = RunResult(RunStatus.CHILD_DIED, "the child process was killed by SIGKILL", is_shared=is_shared)

    outcome, record = settled(single_broker, died, max_retry=0)

    assert (outcome, record.state) == (FinishOutcome.ARCHIVED, "archived")
    assert record.message.error_msg == "the child process was killed by SIGKILL"


def test_success_keeps_the_result(broker: Broker) -> None:
    outcome, record = settled(broker, RunResult(RunStatus.SUCCEEDED, output=b'{"a":1}'))

    assert (outcome, record.result) == (FinishOutcome.COMPLETED, b'{"a":1}')


def test_a_queue_without_storage_keeps_the_state_only(single_broker: Broker) -> None:
    policy = QueuePolicy(keeps_results=False)

    outcome, record = settled(single_broker, RunResult(RunStatus.SUCCEEDED, output=b"1"), policy)

    assert (outcome, record.state, record.result) == (FinishOutcome.COMPLETED, "completed", None)


def test_a_retry_waits_for_the_delay(single_broker: Broker) -> None:
    before_s = single_broker.now_s()
    outcome, record = settled(single_broker, RunResult(RunStatus.RETRYABLE, "busy"))

    assert outcome is FinishOutcome.RETRIED
    assert before_s + 74 <= (record.score_s or 0) <= single_broker.now_s() + 126


def test_a_task_can_request_its_delay(single_broker: Broker) -> None:
    before_s = single_broker.now_s()
    outcome, record = settled(single_broker, RunResult(RunStatus.RETRYABLE, "busy", retry_delay_s=7.0))

    assert outcome is FinishOutcome.RETRIED
    assert before_s + 7 <= (record.score_s or 0) <= single_broker.now_s() + 7


@pytest.mark.parametrize("delay", ["7", -1, True, 1e10])
def test_an_invalid_delay_is_named_and_the_queues_applies(delay: object) -> None:
    response = {"task_id": "t1", "error": "busy", "retry": True, "retry_delay_s": delay}
    result = to_run_result(decode_response(json.dumps(response).encode()))

    assert (result.status, result.retry_delay_s) == (RunStatus.RETRYABLE, None)
    assert result.error.startswith(f"busy\n[retry_delay_s is no number from 0 to 31622400: {delay!r}")


def test_retries_at_the_limit_of_the_delay_are_spread(single_broker: Broker) -> None:
    policy, now_s = QueuePolicy(delay_s=10_000, max_delay_s=1_000), single_broker.now_s()

    due = [settled(single_broker, RunResult(RunStatus.RETRYABLE, "busy"), policy)[1].score_s or 0 for _ in range(40)]

    assert now_s + 599 <= min(due) <= max(due) <= single_broker.now_s() + 1_000
    assert len({*due}) > 30


@pytest.mark.parametrize("status", [RunStatus.FAILED, RunStatus.CANCELED])
def test_a_permanent_failure_is_archived(single_broker: Broker, status: RunStatus) -> None:
    outcome, record = settled(single_broker, RunResult(status, "bad"))

    assert (outcome, record.state) == (FinishOutcome.ARCHIVED, "archived")
    assert record.error == ("canceled" if status is RunStatus.CANCELED else "bad")


def test_a_retry_without_retries_left_is_archived(single_broker: Broker) -> None:
    assert settled(single_broker, RunResult(RunStatus.RETRYABLE, "busy"), max_retry=0)[1].state == "archived"


def test_runs_that_were_not_started_are_requeued(single_broker: Broker) -> None:
    outcome, record = settled(single_broker, RunResult(RunStatus.REQUEUED))

    assert (outcome, record.state, record.retried) == (FinishOutcome.REQUEUED, "pending", 0)


def test_a_delay_doubles_up_to_its_limit() -> None:
    delays = [backoff_s(attempt, first_s=10, max_s=60) for attempt in (0, 1, 2, 3, 10_000)]

    for delay, expected in zip(delays, (10, 20, 40, 60, 60), strict=True):
        assert expected * 0.75 <= delay <= expected * 1.25


def test_the_cooldown_follows_too_many_restarts_and_resets_the_count() -> None:
    restart_policy = RestartPolicy(RestartSettings(max_restarts=2, initial_delay_s=1, cooldown_s=300))

    delays = [restart_policy.next_delay_s() or 0 for _ in range(4)]

    assert delays[2] == 300
    assert [round(delay) for delay in (delays[0], delays[3])] == [1, 1]


def test_a_result_of_the_size_that_the_queue_allows_is_kept() -> None:
    policy, result = QueuePolicy(max_result_bytes=3), RunResult(RunStatus.SUCCEEDED, output=b"123")

    assert limit_result(result, policy) is result
    assert limit_result(RunResult(RunStatus.SUCCEEDED, output=b"1234"), policy).status is RunStatus.FAILED


def test_a_stream_that_is_the_result_is_limited_as_a_result() -> None:
    stream = RunStream(1)
    for chunk in (b'"12"', b'"34"'):
        stream.add(chunk)
    task = LeasedTask(lease=Lease("mail", "t1", "token"), message=TaskMessage(), lease_end_s=0)
    run = Run(task=task, line=b"", stream=stream)

    joined = add_streamed_result(run, RunResult(RunStatus.SUCCEEDED, output=b"null"))

    assert joined.output == b'"1234"'
    assert limit_result(joined, QueuePolicy(max_result_bytes=6)) is joined
    assert limit_result(joined, QueuePolicy(max_result_bytes=5)).status is RunStatus.FAILED


@pytest.mark.parametrize(("size", "calls"), [(BATCH_MAX_BYTES // 3, 1), (BATCH_MAX_BYTES // 2 + 1, 2)])
def test_results_that_are_recorded_together_are_no_larger_than_a_batch(size: int, calls: int) -> None:
    result = RunResult(RunStatus.SUCCEEDED, output=b"x" * size)
    task = LeasedTask(lease=Lease("mail", "t1", "token"), message=TaskMessage(retention=9), lease_end_s=0)

    finishes = plan_finishes([Run(task=task, line=b"", result=result) for _ in range(2)], POLICY, now_ns=0)

    assert [len(finish.runs) for finish in finishes] == [2 // calls] * calls


def test_success_forgets_the_restarts_before() -> None:
    restart_policy = RestartPolicy(RestartSettings(max_restarts=1, initial_delay_s=1, cooldown_s=300))
    restart_policy.next_delay_s()

    restart_policy.record_success()

    assert (restart_policy.next_delay_s() or 0) < 2


def test_recovery_can_be_switched_off() -> None:
    assert RestartPolicy(RestartSettings(is_enabled=False)).next_delay_s() is None
