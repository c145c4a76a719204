"""Bulk actions: on all tasks that match a filter, in slices, each task once."""

import json
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.db import connection

from queues.deletion import delete_queue
from queues.models import QueueSource
from queues.operations import save_queue
from runqy import clock
from runqy.audit.actors import Actor, ActorKind, actor_context
from runqy.audit.models import AuditRecord
from runqy.broker import keys
from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.states import RunOutcome, TaskState
from runqy.errors import QueueNotFound, RequestInvalid
from runqy.maintenance.models import FailedRow
from tasks import bulk_actions, bulk_runner
from tasks.actions import TaskAction
from tasks.bulk_actions import cancel_bulk_action, create_bulk_action, list_bulk_actions_on, preview_bulk_action
from tasks.bulk_runner import BulkRunner, run_bulk_actions
from tasks.history.queries import TaskCount
from tasks.models import BulkAction, TaskCopy, TaskRun
from tasks.search import TaskQuery
from tests.queues.samples import spec
from tests.support.maintenance import start_maintenance
from tests.support.redis_client import redis_of
from tests.support.runs import insert_runs, make_failure, make_run
from tests.support.staff import staff_client
from tests.support.tasks import listed, message, put
from tests.support.waiting import wait_until
from tests.tasks.task_helpers import put_in

pytestmark = pytest.mark.slow

FAILED = (RunOutcome.FAILED,)
ARCHIVED = TaskQuery(state=TaskState.ARCHIVED)
PENDING = TaskQuery(state=TaskState.PENDING)


@pytest.fixture(autouse=True)
def queues(configuration: None) -> None:
    save_queue(spec=spec("simple"), source=QueueSource.API)
    save_queue(spec=spec("inference", "high:10", "low:3"), source=QueueSource.API)


def request_and_run(broker: Broker, action: TaskAction, query: TaskQuery) -> BulkAction:
    """Request a bulk action and have it applied; return what became of it."""
    bulk = create_bulk_action(broker, action=action, query=query, expected=preview_bulk_action(broker, query).count)
    run_bulk_actions(broker)
    return BulkAction.objects.get(pk=bulk.pk)


def counts(bulk: BulkAction) -> tuple[str, int, int, int, int]:
    bulk.refresh_from_db()
    return bulk.state, bulk.expected, bulk.done, bulk.skipped, bulk.failed


@pytest.mark.parametrize(
    ("action", "state", "left"),
    [
        (TaskAction.RUN, "archived", {"pending"}),
        (TaskAction.RUN, "retry", {"pending"}),
        (TaskAction.CANCEL, "pending", {"archived"}),
        (TaskAction.ARCHIVE, "scheduled", {"archived"}),
        (TaskAction.DELETE, "completed", set()),
    ],
)
def test_an_action_is_applied_to_all_tasks_in_a_state(
    single_broker: Broker, action: TaskAction, state: str, left: set[str]
) -> None:
    put_in(single_broker, state, *(f"t{number}" for number in range(7)))
    put_in(single_broker, state, "h1", queue="inference_high")
    put_in(single_broker, state, "l1", queue="inference_low")

    bulk = request_and_run(single_broker, action, TaskQuery(state=TaskState(state)))

    assert counts(bulk) == ("finished", 9, 9, 0, 0)
    for queue in ("simple", "inference_high", "inference_low"):
        assert {*listed(single_broker, queue)} == left


def test_a_queue_means_all_its_sub_queues_and_no_other(single_broker: Broker) -> None:
    for queue in ("simple", "inference_high", "inference_low"):
        put(single_broker, f"{queue}-1", queue=queue)

    request_and_run(single_broker, TaskAction.DELETE, TaskQuery(state=TaskState.PENDING, queue="inference"))

    assert [listed(single_broker, queue) for queue in ("inference_high", "inference_low")] == [{}, {}]
    assert listed(single_broker, "simple") == {"pending": ["simple-1"]}


def test_only_tasks_that_hold_the_text_are_affected(single_broker: Broker) -> None:
    put(single_broker, "it", queue="simple", payload=b'{"order":"ORD-17"}')
    put(single_broker, "other", queue="simple", payload=b'{"order":"ORD-18"}')

    bulk = request_and_run(single_broker, TaskAction.DELETE, TaskQuery(state=TaskState.PENDING, text="ord-17"))

    assert counts(bulk) == ("finished", 1, 1, 0, 0)
    assert listed(single_broker, "simple") == {"pending": ["other"]}


def test_a_failed_task_that_is_still_in_redis_runs_again_under_its_id(single_broker: Broker) -> None:
    put_in(single_broker, "archived", "t1")
    insert_runs(make_failure(task_id="t1"), queue="simple")

    bulk = request_and_run(single_broker, TaskAction.RUN, TaskQuery(outcomes=FAILED))

    assert counts(bulk) == ("finished", 1, 1, 0, 0)
    assert listed(single_broker, "simple") == {"pending": ["t1"]}
    assert not TaskCopy.objects.exists()


def test_a_failed_task_that_redis_has_no_more_runs_again_as_a_linked_copy(single_broker: Broker) -> None:
    insert_runs(make_failure(task_id="t1", payload=b'{"order":"A-1"}'), queue="simple")

    bulk = request_and_run(single_broker, TaskAction.RUN, TaskQuery(outcomes=FAILED))

    (copy,) = TaskCopy.objects.all()
    assert counts(bulk) == ("finished", 1, 1, 0, 0)
    assert listed(single_broker, "simple") == {"pending": [copy.copy_id]}
    assert message(single_broker, copy.copy_id, "simple").payload == b'{"order":"A-1"}'
    assert (copy.original_id, copy.is_edited) == ("t1", False)
    assert list_bulk_actions_on("simple", "t1") == [bulk]
    assert list_bulk_actions_on("inference", "t1") == []


def test_no_copy_goes_to_the_queue_that_has_the_redis_queue_of_a_deleted_one(single_broker: Broker) -> None:
    taken = "inference_high"  # it was a sub-queue of the queue `other` when the first task ran
    insert_runs(make_failure(task_id="t1", payload=b"{}"), queue="other", sub_queue="high", redis_queue=taken)
    insert_runs(make_failure(task_id="t2", payload=b"{}"), queue="inference", sub_queue="high", redis_queue=taken)

    bulk = request_and_run(single_broker, TaskAction.RUN, TaskQuery(outcomes=FAILED))

    assert counts(bulk) == ("finished", 2, 1, 0, 1)
    assert bulk.problems[0]["reason"] == f"The Redis queue {taken} no longer belongs to a queue."
    assert [copy.original_id for copy in TaskCopy.objects.all()] == ["t2"]
    assert len(listed(single_broker, taken)["pending"]) == 1


@pytest.mark.parametrize("payload", [b"", b'{"order":"A-1","text":"an exce'])
def test_a_task_whose_payload_was_not_kept_in_full_cannot_run_again(single_broker: Broker, payload: bytes) -> None:
    insert_runs(make_failure(task_id="t1", payload=payload), queue="simple")

    bulk = request_and_run(single_broker, TaskAction.RUN, TaskQuery(outcomes=FAILED))

    assert counts(bulk) == ("finished", 1, 0, 0, 1)
    assert bulk.problems[0]["reason"] == "its payload was not kept in full"
    assert listed(single_broker, "simple") == {}


def test_the_preview_counts_what_happens(single_broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    payload = b'{"order":"A-1"}'
    insert_runs(*(make_failure(task_id=f"t{n}", payload=payload) for n in range(6)), queue="simple")
    insert_runs(make_failure(task_id="t0", payload=payload), make_run(task_id="t1", payload=payload), queue="simple")
    query = TaskQuery(outcomes=FAILED, text="A-1")

    bulk = request_and_run(single_broker, TaskAction.DELETE, query)

    assert counts(bulk) == ("finished", 5, 5, 0, 0)
    assert {run.task_id for run in TaskRun.objects.all()} == {"t1"}


def test_a_preview_counts_up_to_its_bound(single_broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    insert_runs(*(make_failure(payload=b'{"order":"A-1"}') for _ in range(5)), queue="simple")
    query = TaskQuery(text="A-1")

    monkeypatch.setattr(bulk_actions, "MAX_COUNTED", 5)
    assert preview_bulk_action(single_broker, query) == TaskCount(count=5, is_exact=True)
    monkeypatch.setattr(bulk_actions, "MAX_COUNTED", 4)
    assert preview_bulk_action(single_broker, query) == TaskCount(count=4, is_exact=False)


def test_a_task_that_ran_again_since_is_left_alone(single_broker: Broker) -> None:
    put_in(single_broker, "completed", "t1")
    insert_runs(make_failure(task_id="t1", run_id="r1"), queue="simple")
    insert_runs(make_run(task_id="t1", run_id="r2"), queue="simple")

    bulk = request_and_run(single_broker, TaskAction.RUN, TaskQuery(outcomes=FAILED))

    assert counts(bulk)[2:] == (0, 0, 0)
    assert listed(single_broker, "simple") == {"completed": ["t1"]}


@pytest.mark.parametrize("action", [TaskAction.RUN, TaskAction.DELETE])
@pytest.mark.parametrize(("outcome", "state"), [(RunOutcome.FAILED, "completed"), (RunOutcome.COMPLETED, "archived")])
def test_a_task_that_ended_again_without_a_row_is_skipped(
    single_broker: Broker, action: TaskAction, outcome: RunOutcome, state: str
) -> None:
    put_in(single_broker, state, "t1")
    insert_runs(make_run(task_id="t1", outcome=outcome), queue="simple")

    bulk = request_and_run(single_broker, action, TaskQuery(outcomes=(outcome,)))

    assert counts(bulk) == ("finished", 1, 0, 1, 0)
    assert bulk.problems[0]["reason"].startswith("it has ended again since")
    assert listed(single_broker, "simple") == {state: ["t1"]}
    assert TaskRun.objects.filter(task_id="t1").exists()


def test_a_task_whose_new_end_is_recorded_after_its_slice_was_found_is_skipped(
    single_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_in(single_broker, "completed", "t1")
    insert_runs(make_run(task_id="t1", run_id="r1"), queue="simple")

    def find_and_end(*args: Any) -> bulk_actions.Slice:
        found = bulk_actions.find_next_slice(*args)
        insert_runs(make_run(task_id="t1", run_id="r2"), queue="simple")
        return found

    monkeypatch.setattr(bulk_runner, "find_next_slice", find_and_end)
    bulk = request_and_run(single_broker, TaskAction.DELETE, TaskQuery(outcomes=(RunOutcome.COMPLETED,)))

    assert counts(bulk) == ("finished", 1, 0, 1, 0)
    assert listed(single_broker, "simple") == {"completed": ["t1"]}


def test_a_task_that_waits_or_runs_already_is_skipped(single_broker: Broker) -> None:
    put_in(single_broker, "active", "t1")
    insert_runs(make_failure(task_id="t1"), queue="simple")

    bulk = request_and_run(single_broker, TaskAction.RUN, TaskQuery(outcomes=FAILED))

    assert counts(bulk) == ("finished", 1, 0, 1, 0)
    assert bulk.problems[0]["reason"] == "it is active"


def test_attempts_that_were_retried_are_no_tasks_to_run_again(single_broker: Broker) -> None:
    put_in(single_broker, "archived", "t1")
    insert_runs(
        make_failure(task_id="t1", run_id="r1", outcome=RunOutcome.RETRIED, is_final=False),
        make_failure(task_id="t1", run_id="r2"),
        queue="simple",
    )
    fingerprint = str(TaskRun.objects.values_list("fingerprint", flat=True)[0])

    bulk = request_and_run(single_broker, TaskAction.RUN, TaskQuery(fingerprint=fingerprint))

    assert counts(bulk) == ("finished", 1, 1, 0, 0)


def test_deleting_ended_tasks_removes_them_from_redis_and_the_history(single_broker: Broker) -> None:
    put_in(single_broker, "archived", "t1")
    insert_runs(make_failure(task_id="t1"), make_failure(task_id="gone"), make_run(task_id="fine"), queue="simple")

    bulk = request_and_run(single_broker, TaskAction.DELETE, TaskQuery(outcomes=FAILED))

    assert counts(bulk) == ("finished", 2, 2, 0, 0)
    assert [run.task_id for run in TaskRun.objects.all()] == ["fine"]
    assert listed(single_broker, "simple") == {}


def test_what_ends_after_the_request_does_not_match(single_broker: Broker) -> None:
    insert_runs(make_failure(task_id="t1", payload=b"{}"), queue="simple")
    create_bulk_action(single_broker, action=TaskAction.RUN, query=TaskQuery(outcomes=FAILED), expected=1)
    insert_runs(make_failure(task_id="t2", payload=b"{}"), queue="simple")

    run_bulk_actions(single_broker)

    assert [copy.original_id for copy in TaskCopy.objects.all()] == ["t1"]


@pytest.mark.parametrize("size", [1, 3])
def test_slices_apply_to_each_task_once(single_broker: Broker, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(bulk_actions, "SLICE_SIZE", size)
    monkeypatch.setattr(bulk_actions, "RUNS_PER_SLICE", 4)
    insert_runs(*(make_failure(task_id=f"t{n}", payload=b'{"order":"A-1"}') for n in range(10)), queue="simple")

    bulk = request_and_run(single_broker, TaskAction.RUN, TaskQuery(outcomes=FAILED, text="A-1"))

    assert counts(bulk) == ("finished", 10, 10, 0, 0)
    assert len(listed(single_broker, "simple")["pending"]) == 10


def test_a_tick_ends_in_time_and_the_next_one_continues(single_broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk_actions, "SLICE_SIZE", 3)
    monkeypatch.setattr(bulk_runner, "TICK_S", 2.0)
    put(single_broker, *(f"t{number}" for number in range(9)), queue="simple")
    now_s, apply = [clock.monotonic_s()], bulk_runner.apply_in_state
    monkeypatch.setattr(clock, "monotonic_s", lambda: now_s[0])

    def apply_for_three_seconds(*arguments: Any) -> Any:
        now_s[0] += 3
        return apply(*arguments)

    monkeypatch.setattr(bulk_runner, "apply_in_state", apply_for_three_seconds)

    bulk = request_and_run(single_broker, TaskAction.DELETE, TaskQuery(state=TaskState.PENDING))
    states = [counts(bulk)]
    for _ in range(3):
        run_bulk_actions(single_broker)
        states.append(counts(bulk))

    assert states[:2] == [("running", 9, 3, 0, 0), ("running", 9, 6, 0, 0)]
    assert states[-1] == ("finished", 9, 9, 0, 0)


def test_a_cancelled_bulk_action_goes_no_further(single_broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk_actions, "SLICE_SIZE", 1)
    put(single_broker, "t1", "t2", "t3", queue="simple")
    bulk = create_bulk_action(single_broker, action=TaskAction.DELETE, query=PENDING, expected=3)
    apply = bulk_runner.apply_in_state
    monkeypatch.setattr(
        bulk_runner, "apply_in_state", lambda *arguments: cancel_bulk_action(bulk.pk) and apply(*arguments)
    )

    run_bulk_actions(single_broker)

    assert counts(bulk) == ("canceled", 3, 1, 0, 0)
    assert len(listed(single_broker, "simple")["pending"]) == 2
    assert not cancel_bulk_action(bulk.pk)


def test_a_task_that_came_into_the_state_after_the_request_does_not_match(single_broker: Broker) -> None:
    put_in(single_broker, "archived", "before")
    bulk = create_bulk_action(
        single_broker, action=TaskAction.RUN, query=TaskQuery(state=TaskState.ARCHIVED), expected=1
    )
    BulkAction.objects.update(requested_s=bulk.requested_s - 2)
    redis_of(single_broker).hset(QueueKeys("simple").task("before"), "archived_at", single_broker.now_s() - 60)
    redis_of(single_broker).zincrby(QueueKeys("simple").archived, -60, "before")
    put_in(single_broker, "archived", "after")

    run_bulk_actions(single_broker)

    assert counts(bulk) == ("finished", 1, 1, 0, 0)
    assert listed(single_broker, "simple") == {"pending": ["before"], "archived": ["after"]}


def test_a_task_that_ran_again_as_a_copy_is_not_copied_once_more(single_broker: Broker) -> None:
    insert_runs(make_failure(task_id="t1", payload=b"{}"), queue="simple")
    request_and_run(single_broker, TaskAction.RUN, TaskQuery(outcomes=FAILED))

    bulk = request_and_run(single_broker, TaskAction.RUN, TaskQuery(outcomes=FAILED))

    assert counts(bulk) == ("finished", 1, 0, 1, 0)
    assert bulk.problems[0]["reason"] == "it has run again already, as a new task"
    assert len(listed(single_broker, "simple")["pending"]) == 1


def test_two_processes_do_not_work_on_one_bulk_action(single_broker: Broker) -> None:
    bulk = create_bulk_action(single_broker, action=TaskAction.DELETE, query=PENDING, expected=0)

    assert BulkRunner.lease(single_broker, bulk.pk)
    assert BulkRunner.lease(single_broker, bulk.pk) is None


def test_a_bulk_action_on_a_deleted_queue_fails_with_the_reason(single_broker: Broker) -> None:
    query = TaskQuery(state=TaskState.PENDING, queue="gone")
    bulk = create_bulk_action(single_broker, action=TaskAction.DELETE, query=query, expected=1)

    run_bulk_actions(single_broker)

    assert counts(bulk)[0] == "failed"
    assert "gone" in bulk.error


DEMOTIONS: dict[str, Callable[[User], object]] = {
    "another role": lambda user: user.groups.set([Group.objects.get(name="viewer")]),
    "inactive": lambda user: User.objects.filter(pk=user.pk).update(is_active=False),
    "no staff": lambda user: User.objects.filter(pk=user.pk).update(is_staff=False),
    "deleted": lambda user: user.delete(),
}


@pytest.mark.parametrize("demote", DEMOTIONS.values(), ids=DEMOTIONS)
def test_a_bulk_action_ends_when_its_user_may_no_longer_do_this(
    single_broker: Broker, monkeypatch: pytest.MonkeyPatch, demote: Callable[[User], object]
) -> None:
    monkeypatch.setattr(bulk_actions, "SLICE_SIZE", 1)
    put(single_broker, "t1", "t2", "t3", queue="simple")
    staff_client("operator")
    user = User.objects.get(username="the-operator")
    with actor_context(Actor(kind=ActorKind.USER, name="the-operator", id=str(user.pk))):
        bulk = create_bulk_action(single_broker, action=TaskAction.DELETE, query=PENDING, expected=3)
    apply = bulk_runner.apply_in_state
    monkeypatch.setattr(bulk_runner, "apply_in_state", lambda *arguments: (apply(*arguments), demote(user))[0])

    run_bulk_actions(single_broker)

    assert counts(bulk) == ("failed", 3, 1, 0, 0)
    assert bulk.error == "The user or API key that requested it may no longer do this."
    assert len(listed(single_broker, "simple")["pending"]) == 2


@pytest.mark.parametrize(
    ("step", "query", "end"),
    [
        ("apply_in_state", TaskQuery(state=TaskState.ARCHIVED), ("finished", 2, 0, 2, 0)),
        ("enqueue_intents", TaskQuery(outcomes=FAILED), ("finished", 2, 0, 0, 2)),
    ],
)
def test_a_queue_that_is_deleted_right_before_a_step_of_a_bulk_action_stays_deleted(
    single_broker: Broker,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    query: TaskQuery,
    end: tuple[str, int, int, int, int],
) -> None:
    put_in(single_broker, "archived", "t1", "t2")
    insert_runs(*(make_failure(task_id=f"old{n}", payload=b"{}") for n in range(2)), queue="simple")
    apply = getattr(bulk_runner, step)

    def delete_and_apply(*arguments: Any, **options: Any) -> Any:
        with suppress(QueueNotFound):
            delete_queue(single_broker, name="simple", force=True)
        return apply(*arguments, **options)

    monkeypatch.setattr(bulk_runner, step, delete_and_apply)

    bulk = request_and_run(single_broker, TaskAction.RUN, query)

    assert counts(bulk) == end
    assert [*redis_of(single_broker).scan_iter(match="*{simple}*")] == []
    assert not redis_of(single_broker).sismember(keys.QUEUES, "simple")


@pytest.mark.parametrize(
    ("action", "state"),
    [(TaskAction.CANCEL, None), (TaskAction.ARCHIVE, None), (TaskAction.ARCHIVE, TaskState.COMPLETED)],
)
def test_an_action_that_the_state_does_not_allow_is_refused(
    single_broker: Broker, action: TaskAction, state: TaskState | None
) -> None:
    with pytest.raises(RequestInvalid):
        create_bulk_action(single_broker, action=action, query=TaskQuery(state=state), expected=1)

    assert not BulkAction.objects.exists()


def test_the_audit_has_the_filter_and_the_end(single_broker: Broker) -> None:
    put(single_broker, "t1", queue="simple")

    bulk = request_and_run(single_broker, TaskAction.DELETE, TaskQuery(state=TaskState.PENDING, queue="simple"))

    rows = AuditRecord.objects.filter(object_kind="bulk_action", object_name=str(bulk.pk)).order_by("number")
    created, finished = rows
    assert (created.action, finished.action) == ("bulk_action.created", "bulk_action.finished")
    assert json.loads(created.changes)["filter"]["new"] == {"state": "pending", "queue": "simple"}
    assert json.loads(finished.changes)["done"]["new"] == 1


@pytest.mark.skipif(connection.vendor != "sqlite", reason="one database is enough for processes")
def test_a_bulk_action_survives_kill_9_and_is_applied_to_no_task_twice(single_broker: Broker, tmp_path: Path) -> None:
    count = 3_000
    insert_runs(*(make_failure(task_id=f"t{n}", payload=b"{}") for n in range(count)), queue="simple")
    bulk = create_bulk_action(single_broker, action=TaskAction.RUN, query=TaskQuery(outcomes=FAILED), expected=count)

    for _ in range(2):
        with (tmp_path / "log").open("wb") as log:
            process = start_maintenance(log)
        seen = TaskCopy.objects.count()
        wait_until(lambda seen=seen: TaskCopy.objects.count() > seen or counts(bulk)[0] == "finished")
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        BulkAction.objects.update(leased_until=None)  # instead of waiting for LEASE_S
    while counts(bulk)[0] == "running":
        run_bulk_actions(single_broker)

    assert counts(bulk) == ("finished", count, count, 0, 0)
    assert len(listed(single_broker, "simple")["pending"]) == count


def test_a_bulk_action_that_cannot_be_applied_holds_up_no_other(single_broker: Broker) -> None:
    put(single_broker, "t1", queue="simple")
    odd, good = (create_bulk_action(single_broker, action=TaskAction.ARCHIVE, query=PENDING, expected=1) for _ in "ab")
    BulkAction.objects.filter(pk=odd.pk).update(query="[]")

    run_bulk_actions(single_broker)

    assert counts(good) == ("finished", 1, 1, 0, 0)
    assert list(FailedRow.objects.values_list("kind", "key")) == [("bulk action", str(odd.pk))]
