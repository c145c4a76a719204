"""Any sequence of operations leaves Redis in the state of a simple model."""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule, run_state_machine_as_test

from runqy.broker.duties.forwarder import forward
from runqy.broker.duties.recoverer import find_lost, recover
from runqy.broker.keys import QueueKeys
from runqy.broker.queues.pausing import pause, unpause
from runqy.broker.request import Request
from runqy.broker.states import TaskState
from runqy.broker.tasks.cancel import Cancellation, cancel
from runqy.broker.tasks.dequeue import QueueWeight, dequeue_tasks, plan_dequeue
from runqy.broker.tasks.enqueue_batch import enqueue_many
from runqy.broker.tasks.finish import Failure, FinishOutcome, archive, complete, requeue, retry, write_result
from runqy.broker.tasks.lease import extend
from runqy.errors import LeaseLost, TaskAlreadyExists, TaskNotFound
from tests.broker.task_model import IDS, QUEUES, Model, ModelledLife, queue_of
from tests.support.redis_client import redis_of
from tests.support.tasks import new_task

LEASE_S, GRACE_S = 30, 30


class TaskLife(ModelledLife):
    """Does the same to Redis and to the model."""

    @initialize()
    def begin(self) -> None:
        """Start with some tasks."""
        self.enqueue(IDS[:3], 0, 0, 60)

    @rule(seconds=st.sampled_from([1, 20, 70]))
    def wait(self, seconds: int) -> None:
        """Let time pass."""
        self.now_s += seconds

    @rule(
        ids=st.lists(st.sampled_from(IDS), min_size=1, max_size=4),
        delay=st.sampled_from([0, 10]),
        max_retry=st.integers(0, 2),
        retention=st.sampled_from([0, 60]),
    )
    def enqueue(self, ids: list[str], delay: int, max_retry: int, retention: int) -> None:
        """Enqueue tasks, some perhaps twice."""
        run_at = self.now_s + delay
        new = [new_task(i, queue_of(i), max_retry=max_retry, retention_s=retention, process_at_s=run_at) for i in ids]

        outcomes = self.broker.run(enqueue_many(self.broker, new))

        for task, outcome in zip(new, outcomes, strict=True):
            if task.id in self.tasks:
                assert isinstance(outcome, TaskAlreadyExists)
                continue
            assert outcome == ("scheduled" if delay else "pending")
            self.tasks[task.id] = Model(message=task.message(), state=outcome.value, score=run_at if delay else 0)
            if not delay:
                self.queues[task.queue].pending.append(task.id)

    @rule(count=st.integers(1, 3))
    def take(self, count: int) -> None:
        """Dequeue tasks, the higher queue's first; repeat the request, as after a lost reply."""
        shares = [QueueWeight(queue="high", priority=2), QueueWeight(queue="low", priority=1)]
        order = plan_dequeue(shares, count, worker_id="w", is_strict=True)
        now_ns = self.now_ns
        expected = []
        for queue in QUEUES:
            while not self.queues[queue].is_paused and self.queues[queue].pending and len(expected) < count:
                expected.append(self.queues[queue].pending.pop(0))

        taken, _ = self.broker.run(dequeue_tasks(self.broker, order, now_ns=now_ns))
        again, _ = self.broker.run(dequeue_tasks(self.broker, order.repeated(), now_ns=now_ns))

        assert [one.lease.task_id for one in taken] == expected
        assert {one.lease for one in again} == {one.lease for one in taken}
        for one in taken:
            task = self.tasks[one.lease.task_id]
            assert one.message == task.message
            task.state, task.owner, task.cancel, task.score = "active", one.lease.token, False, self.now_s + LEASE_S
            self.leases.append((one.lease, one.message))

    def finish(self, pick: int, verb: str, make, *, again: bool, spends: bool = False) -> Model | None:
        """Finish a run with a current or old lease, perhaps twice; return the task if it changed."""
        if not self.leases:
            return None
        lease, message = self.leases[pick % len(self.leases)]
        request: Request[FinishOutcome] = make(lease, message)
        task = self.tasks.get(lease.task_id)
        is_deletion = verb == "complete" and message.retention == 0
        if task and task.state == "active" and task.owner == lease.token:
            is_canceled = task.cancel and verb in ("retry", "requeue")
            outcome = self.broker.run(request)
            assert (outcome is FinishOutcome.CANCELED) == is_canceled
            if again:
                assert self.broker.run(request) is outcome
            task.owner, task.finished_by = "", lease.token
            if is_canceled:
                self.archive_model(lease.task_id, "canceled", counts=True)
                task.message.retried += spends
                return None
            return task
        if (task and task.finished_by == lease.token) or (
            is_deletion and self.deleted_by.get(lease.task_id) == lease.token
        ):
            self.broker.run(request)
            return None
        with pytest.raises(LeaseLost):
            self.broker.run(request)
        return None

    @rule(pick=st.integers(0, 50), again=st.booleans(), result=st.sampled_from([None, b"1"]))
    def complete(self, pick: int, again: bool, result: bytes | None) -> None:
        """Succeed."""
        now_ns = self.now_ns
        task = self.finish(pick, "complete", lambda h, m: complete(h, m, result, now_ns=now_ns), again=again)
        if task is None:
            return
        self.queues[task.message.queue].processed += 1
        if task.message.retention == 0:
            self.deleted_by[task.message.id] = task.finished_by
            del self.tasks[task.message.id]
            return
        task.state, task.score = "completed", self.now_s + task.message.retention
        task.message.completed_at = self.now_s
        task.result = result or task.result

    @rule(pick=st.integers(0, 50), again=st.booleans(), is_failure=st.booleans(), delay=st.sampled_from([0, 15]))
    def retry(self, pick: int, again: bool, is_failure: bool, delay: int) -> None:
        """Fail and try again."""
        failure = Failure(error="boom", retry_at_s=self.now_s + delay, is_failure=is_failure)
        now_ns = self.now_ns
        make = lambda h, m: retry(h, m, failure, now_ns=now_ns)
        task = self.finish(pick, "retry", make, again=again, spends=is_failure)
        if task is None:
            return
        task.state, task.score = "retry", self.now_s + delay
        task.message.error_msg, task.message.last_failed_at = "boom", self.now_s
        task.message.retried += is_failure
        self.queues[task.message.queue].processed += is_failure
        self.queues[task.message.queue].failed += is_failure

    @rule(pick=st.integers(0, 50), again=st.booleans())
    def archive(self, pick: int, again: bool) -> None:
        now_ns = self.now_ns
        task = self.finish(pick, "archive", lambda h, m: archive(h, m, error="bad", now_ns=now_ns), again=again)
        if task is not None:
            self.archive_model(task.message.id, "bad", counts=True)

    @rule(pick=st.integers(0, 50), again=st.booleans())
    def requeue(self, pick: int, again: bool) -> None:
        now_ns = self.now_ns
        task = self.finish(pick, "requeue", lambda h, m: requeue(h, now_ns=now_ns), again=again)
        if task is not None:
            task.state = "pending"
            self.queues[task.message.queue].pending.insert(0, task.message.id)

    @rule(pick=st.integers(0, 50))
    def write_result(self, pick: int) -> None:
        """Show something half-way."""
        if not self.leases:
            return
        lease, _ = self.leases[pick % len(self.leases)]
        task = self.tasks.get(lease.task_id)
        if task and task.owner == lease.token:
            self.broker.run(write_result(lease, b"half"))
            task.result = b"half"
            return
        with pytest.raises(LeaseLost):
            self.broker.run(write_result(lease, b"half"))

    @rule()
    def extend(self) -> None:
        """Extend every lease that a worker holds, or believes it holds."""
        leases = [lease for lease, _ in self.leases]

        extension = self.broker.run(extend(leases, now_ns=self.now_ns))

        held = {task.owner: task for task in self.tasks.values() if task.state == "active"}
        assert set(extension.lost) == {lease for lease in leases if lease.token not in held}
        assert {lease.token for lease in extension.canceled} == {owner for owner, task in held.items() if task.cancel}
        for task in held.values():
            task.score = self.now_s + LEASE_S

    @rule(task_id=st.sampled_from(IDS))
    def cancel(self, task_id: str) -> None:
        """Cancel."""
        request = cancel(queue_of(task_id), task_id, now_ns=self.now_ns)
        task = self.tasks.get(task_id)
        if task is None:
            with pytest.raises(TaskNotFound):
                self.broker.run(request)
            return

        outcome = self.broker.run(request)

        if task.state == "active":
            assert outcome is Cancellation.REQUESTED
            task.cancel = True
        elif task.state in ("completed", "archived"):
            was_canceled = task.state == "archived" and task.cancel
            assert outcome is (Cancellation.CANCELED if was_canceled else Cancellation.ALREADY_FINISHED)
        else:
            assert outcome is Cancellation.CANCELED
            if task.state == "pending":
                self.queues[queue_of(task_id)].pending.remove(task_id)
            self.archive_model(task_id, "canceled", counts=False)
            task.cancel = True

    @rule(queue=st.sampled_from(QUEUES), is_paused=st.booleans())
    def pause(self, queue: str, is_paused: bool) -> None:
        """Pause or resume a queue."""
        verb = pause if is_paused else unpause

        changed = self.broker.run(verb(queue, now_ns=self.now_ns))

        assert changed == (self.queues[queue].is_paused != is_paused)
        self.queues[queue].is_paused = is_paused

    @rule(queue=st.sampled_from(QUEUES))
    def forward(self, queue: str) -> None:
        """Forward due tasks."""
        for source in ("scheduled", "retry"):
            self.broker.run(forward(queue, TaskState(source), now_ns=self.now_ns))
            due = [
                (task.score, task_id)
                for task_id, task in self.tasks.items()
                if task.state == source and task.score <= self.now_s and queue_of(task_id) == queue
            ]
            for _, task_id in sorted(due):
                self.tasks[task_id].state = "pending"
                self.queues[queue].pending.append(task_id)

    @rule(queue=st.sampled_from(QUEUES))
    def recover(self, queue: str) -> None:
        """Recover the tasks of dead workers."""
        _, lost = self.broker.run(find_lost(queue, now_ns=self.now_ns, grace_s=GRACE_S))
        expired = {
            task_id
            for task_id, task in self.tasks.items()
            if task.state == "active" and task.score <= self.now_s - GRACE_S and queue_of(task_id) == queue
        }
        assert {one.task_id for one in lost} == expired
        for one in lost:
            task = self.tasks[one.task_id]
            stored = redis_of(self.broker).hget(QueueKeys(queue).task(one.task_id), "msg")

            assert self.broker.run(recover(one, stored, now_ns=self.now_ns)) is not None

            if task.cancel or task.message.retried >= task.message.retry:
                self.archive_model(one.task_id, "canceled" if task.cancel else "asynq: task lease expired", counts=True)
                continue
            task.state, task.score, task.owner = "retry", self.now_s, ""
            task.message.retried += 1
            task.message.error_msg, task.message.last_failed_at = "asynq: task lease expired", self.now_s
            self.queues[queue].processed += 1
            self.queues[queue].failed += 1


@pytest.mark.parametrize("kind", ["single", pytest.param("cluster", marks=pytest.mark.cluster)])
def test_redis_matches_the_model_after_any_operations(kind: str, request: pytest.FixtureRequest) -> None:
    class Life(TaskLife):
        broker = request.getfixturevalue(f"{kind}_broker")

    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=25 if kind == "single" else 8,
            stateful_step_count=40,
            suppress_health_check=list(HealthCheck),
        ),
    )
