"""Bulk actions that are interrupted in a slice: killed, without their lease, before a full queue, or cancelled."""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from unittest.mock import Mock

import pytest
from django.db import connection
from django.utils import timezone

from queues.definitions import LimitOverrides
from queues.models import QueueSource
from queues.operations import save_queue
from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.states import RunOutcome, TaskState
from runqy.broker.tasks.inspector import delete_tasks
from runqy.errors import RequestInvalid
from runqy.redis_connection import get_broker
from tasks import bulk_runner
from tasks.actions import TaskAction
from tasks.bulk_actions import cancel_bulk_action, create_bulk_action
from tasks.bulk_runner import run_bulk_actions
from tasks.models import BulkAction, TaskCopy, TaskRun
from tasks.search import TaskQuery
from tests.queues.samples import spec
from tests.support.killed_bulk_runner import kill_runners
from tests.support.maintenance_duties import MovingClock
from tests.support.redis_client import redis_of
from tests.support.runs import insert_runs, make_failure, make_run
from tests.support.tasks import listed, put, take_one
from tests.tasks.task_helpers import fail_for_good, put_in, succeed

pytestmark = pytest.mark.slow

FAILED = (RunOutcome.FAILED,)
on_sqlite = pytest.mark.skipif(connection.vendor != "sqlite", reason="one database is enough for processes")


@pytest.fixture(autouse=True)
def queues(configuration: None) -> None:
    save_queue(spec=spec("simple"), source=QueueSource.API)
    save_queue(spec=spec("full", limits=LimitOverrides(max_waiting_tasks=3)), source=QueueSource.API)


def request(action: TaskAction, query: TaskQuery) -> BulkAction:
    """Request a bulk action in a later second than the one in which its tasks came into their states."""
    time.sleep(1 - time.time() % 1)
    return create_bulk_action(get_broker(), action=action, query=query, expected=1)


def resume(broker: Broker, bulk: BulkAction) -> None:
    """Apply a bulk action that another process has left, without waiting for its lease or pause to end."""
    now = timezone.now()
    BulkAction.objects.filter(pk=bulk.pk, leased_until__gt=now).update(leased_until=now)
    run_bulk_actions(broker)


def counts(bulk: BulkAction) -> tuple[str, int, int, int]:
    bulk.refresh_from_db()
    return bulk.state, bulk.done, bulk.skipped, bulk.failed


VERBS = [
    (TaskAction.RUN, "archived", "pending"),
    (TaskAction.RUN, "completed", "pending"),
    (TaskAction.RUN, "retry", "pending"),
    (TaskAction.RUN, "scheduled", "pending"),
    (TaskAction.CANCEL, "pending", "archived"),
    (TaskAction.ARCHIVE, "pending", "archived"),
    (TaskAction.DELETE, "archived", ""),
]


@on_sqlite
@pytest.mark.parametrize("step", ["before", "after"])
def test_a_slice_whose_process_was_killed_is_finished_whatever_the_action(single_broker: Broker, step: str) -> None:
    bulks = []
    for action, state, _ in VERBS:
        queue = f"{action}-{state}"
        put_in(single_broker, state, f"{queue}-1", f"{queue}-2", queue=queue)  # an id belongs to one queue
        bulks.append(request(action, TaskQuery(state=TaskState(state), queue=queue)))
    kill_runners(step, *(bulk.pk for bulk in bulks))

    run_bulk_actions(single_broker)

    done = 2 if step == "before" else 0  # what the killed process did is not counted
    for bulk, (action, state, new_state) in zip(bulks, VERBS, strict=True):
        assert (action, state, counts(bulk)) == (action, state, ("finished", done, 0, 0))
        queue = f"{action}-{state}"
        left = {name: sorted(ids) for name, ids in listed(single_broker, queue).items()}
        assert left == ({new_state: [f"{queue}-1", f"{queue}-2"]} if new_state else {})


@on_sqlite
def test_a_task_that_ran_again_before_the_process_was_killed_runs_no_third_time(single_broker: Broker) -> None:
    put_in(single_broker, "archived", "failed-again", "deleted-since", "pending-since")
    insert_runs(
        *(make_failure(task_id=name, payload=b"{}") for name in ("failed-again", "deleted-since", "pending-since")),
        queue="simple",
    )
    bulk = request(TaskAction.RUN, TaskQuery(outcomes=FAILED))
    kill_runners("after", bulk.pk)
    taken = {task.message.id: task for task in (take_one(single_broker, "simple") for _ in range(2))}
    fail_for_good(single_broker, taken["failed-again"], "boom")
    succeed(single_broker, taken["deleted-since"], b"1")
    single_broker.run(delete_tasks("simple", ["deleted-since"]))
    insert_runs(make_run(task_id="deleted-since"), queue="simple")

    run_bulk_actions(single_broker)

    assert listed(single_broker, "simple") == {"archived": ["failed-again"], "pending": ["pending-since"]}
    assert counts(bulk) == ("finished", 0, 0, 0)
    assert not TaskCopy.objects.exists()


@on_sqlite
@pytest.mark.parametrize(("step", "copies"), [("after", 1), ("stored", 2)])
def test_copies_that_ran_and_were_deleted_before_the_next_process_are_not_enqueued_again(
    single_broker: Broker, step: str, copies: int
) -> None:
    insert_runs(make_failure(task_id="t1", payload=b"{}"), make_failure(task_id="t2", payload=b"{}"), queue="simple")
    bulk = request(TaskAction.RUN, TaskQuery(outcomes=FAILED))
    kill_runners(step, bulk.pk)
    for _ in range(copies):
        added = take_one(single_broker, "simple")
        succeed(single_broker, added, b"1")
        single_broker.run(delete_tasks("simple", [added.message.id]))

    run_bulk_actions(single_broker)

    assert counts(bulk) == ("finished", 2, 0, 0)
    assert len(listed(single_broker, "simple").get("pending", [])) == 2 - copies
    assert {copy.original_id for copy in TaskCopy.objects.all()} == {"t1", "t2"}


def test_records_of_copies_live_a_minute_beyond_their_slice(single_broker: Broker) -> None:
    insert_runs(*(make_failure(task_id=f"t{n}", payload=b"{}") for n in range(25)), queue="simple")
    request(TaskAction.RUN, TaskQuery(outcomes=FAILED))

    run_bulk_actions(single_broker)

    records = list(redis_of(single_broker).scan_iter(QueueKeys("simple").created("*")))
    assert len(records) == 25
    assert all(0 < redis_of(single_broker).ttl(record) <= 60 for record in records)


def test_a_process_that_was_stopped_for_longer_than_its_lease_adds_no_copy(
    single_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert_runs(make_failure(task_id="t1", payload=b"{}"), make_failure(task_id="t2", payload=b"{}"), queue="simple")
    bulk = request(TaskAction.RUN, TaskQuery(outcomes=FAILED))
    clock = MovingClock(monkeypatch)
    clock.advance(-bulk_runner.LEASE_S - 1)  # between its last look at the clock and Redis's

    run_bulk_actions(single_broker)
    first = counts(bulk), listed(single_broker, "simple")
    clock.advance(bulk_runner.LEASE_S + 1)
    resume(single_broker, bulk)

    assert first == (("running", 0, 0, 0), {})
    assert counts(bulk) == ("finished", 2, 0, 0)
    assert len(listed(single_broker, "simple")["pending"]) == 2


@on_sqlite
def test_runs_are_deleted_although_the_process_was_killed_after_it_had_deleted_the_task(single_broker: Broker) -> None:
    put_in(single_broker, "archived", "t1")
    insert_runs(make_failure(task_id="t1"), queue="simple")
    bulk = request(TaskAction.DELETE, TaskQuery(outcomes=FAILED))
    kill_runners("after", bulk.pk)

    run_bulk_actions(single_broker)

    assert counts(bulk) == ("finished", 1, 0, 0)
    assert not TaskRun.objects.exists()


@on_sqlite
def test_a_bulk_action_that_was_cancelled_after_its_process_was_killed_is_not_continued(single_broker: Broker) -> None:
    put_in(single_broker, "archived", "t1")
    bulk = request(TaskAction.RUN, TaskQuery(state=TaskState.ARCHIVED))
    kill_runners("before", bulk.pk)
    BulkAction.objects.update(leased_until=timezone.now() - timedelta(seconds=1))
    cancel_bulk_action(bulk.pk)

    run_bulk_actions(single_broker)

    assert listed(single_broker, "simple") == {"archived": ["t1"]}
    assert counts(bulk) == ("canceled", 0, 0, 0)


def after_call(monkeypatch: pytest.MonkeyPatch, name: str, then: Callable[[int], object]) -> None:
    """Call `then` with the number of calls after each call of a function of the runner."""
    original, calls = getattr(bulk_runner, name), []

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        calls.append(name)
        then(len(calls))
        return result

    monkeypatch.setattr(bulk_runner, name, wrapper)


def test_a_process_that_lost_its_lease_counts_nothing(single_broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    put(single_broker, "t1", "t2", queue="simple")
    bulk = request(TaskAction.DELETE, TaskQuery(state=TaskState.PENDING))

    def run_in_other_process(call: int) -> None:
        if call == 1:
            resume(single_broker, bulk)

    after_call(monkeypatch, "apply_in_state", run_in_other_process)

    run_bulk_actions(single_broker)

    assert (counts(bulk), listed(single_broker, "simple")) == (("finished", 0, 0, 0), {})


def test_a_process_that_was_stopped_beyond_its_lease_leaves_the_tasks_alone(
    single_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_in(single_broker, "archived", "t1", "t2", queue="simple")
    bulk = request(TaskAction.RUN, TaskQuery(state=TaskState.ARCHIVED, queue="simple"))

    def run_and_fail_again(call: int) -> None:
        if call == 1:
            resume(single_broker, bulk)
            for _ in range(2):
                fail_for_good(single_broker, take_one(single_broker, "simple"), "boom")

    after_call(monkeypatch, "select_still_matching", run_and_fail_again)

    run_bulk_actions(single_broker)

    assert counts(bulk) == ("finished", 2, 0, 0)
    assert {state: len(ids) for state, ids in listed(single_broker, "simple").items()} == {"archived": 2}


LEFT_S = 300.0
"""What is left of a lease, however busy the machine is, when it is extended."""


def test_the_lease_is_extended_during_a_long_slice(single_broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk_runner, "LEASE_S", 3 * LEFT_S)
    insert_runs(*(make_failure(task_id=f"t{n}", payload=b"{}") for n in range(30)), queue="simple")
    bulk = request(TaskAction.RUN, TaskQuery(outcomes=FAILED))
    left_s = []

    def let_it_run_out(call: int) -> None:
        now = timezone.now()
        if call == 1:
            BulkAction.objects.update(leased_until=now + timedelta(seconds=LEFT_S))
        left_s.append((BulkAction.objects.get().leased_until - now).total_seconds())

    after_call(monkeypatch, "enqueue_intents", let_it_run_out)

    run_bulk_actions(single_broker)

    assert counts(bulk) == ("finished", 30, 0, 0)
    assert (left_s[0] <= LEFT_S, left_s[-1] > LEFT_S) == (True, True)


def test_a_bulk_action_waits_for_room_in_a_full_queue_and_continues(single_broker: Broker) -> None:
    insert_runs(make_failure(task_id="cut", payload=b'{"text":"begi'), queue="simple")
    insert_runs(*(make_failure(task_id=f"t{n}", payload=b"{}") for n in range(5)), queue="full")
    insert_runs(make_failure(task_id="other", payload=b"{}"), queue="simple")
    bulk = request(TaskAction.RUN, TaskQuery(outcomes=FAILED))

    run_bulk_actions(single_broker)
    first = counts(bulk), bulk.full_queue
    BulkAction.objects.update(leased_until=None)
    run_bulk_actions(single_broker)
    for _ in range(2):
        succeed(single_broker, take_one(single_broker, "full"), b"1")
    resume(single_broker, bulk)

    assert first == (("running", 4, 0, 0), "full")
    assert counts(bulk) == ("finished", 6, 0, 1)
    assert len(listed(single_broker, "full")["pending"]) == 3
    assert TaskCopy.objects.count() == 6


def test_a_bulk_action_that_waits_for_room_can_be_cancelled(single_broker: Broker) -> None:
    insert_runs(*(make_failure(task_id=f"t{n}", payload=b"{}") for n in range(4)), queue="full")
    bulk = request(TaskAction.RUN, TaskQuery(outcomes=FAILED))
    run_bulk_actions(single_broker)

    cancel_bulk_action(bulk.pk)
    resume(single_broker, bulk)

    assert counts(bulk) == ("canceled", 3, 0, 0)
    assert len(listed(single_broker, "full")["pending"]) == 3


def test_a_cancelled_bulk_action_stops_within_a_slice(single_broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    insert_runs(*(make_failure(task_id=f"t{n:02}", payload=b"{}") for n in range(30)), queue="simple")
    bulk = request(TaskAction.RUN, TaskQuery(outcomes=FAILED))
    after_call(monkeypatch, "enqueue_intents", lambda call: call == 1 and cancel_bulk_action(bulk.pk))

    run_bulk_actions(single_broker)

    assert counts(bulk) == ("canceled", 20, 0, 0)


def test_an_error_in_a_slice_ends_the_bulk_action(single_broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    put(single_broker, "t1", queue="simple")
    bulk = request(TaskAction.DELETE, TaskQuery(state=TaskState.PENDING))
    monkeypatch.setattr(bulk_runner, "apply_in_state", Mock(side_effect=RequestInvalid("boom")))

    run_bulk_actions(single_broker)

    assert (counts(bulk), bulk.error) == (("failed", 0, 0, 0), "boom")
