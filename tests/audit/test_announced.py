"""Changes of Redis are recorded before they are made: none without its record, whatever goes when."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import redis as redis_py
from django.db import OperationalError, connection, transaction

from queues.models import Source
from queues.operations import save_queue
from queues.switching import pause_queue
from runqy.audit.models import AuditRecord
from runqy.audit.operations import announced
from runqy.audit.queries import verify_chain
from runqy.broker.links import SingleLink
from runqy.broker.scripts import Command
from runqy.broker.states import TaskState
from runqy.connection import get_broker
from runqy.errors import BrokerUnavailable, TaskNotFound
from tasks.handling import Action, Selection, cancel_task, handle_task, handle_tasks
from tests.queues.samples import spec
from tests.support.tasks import put, take_one

pytestmark = pytest.mark.usefixtures("mail")

CHANGES: dict[str, Callable[[], object]] = {
    "queue.paused": lambda: pause_queue(get_broker(), name="mail"),
    "task.canceled": lambda: cancel_task(get_broker(), task_id="t1"),
    "task.deleted": lambda: handle_task(get_broker(), action=Action.DELETE, queue="mail", task_id="t1"),
    "tasks.archived": lambda: handle_tasks(
        get_broker(), action=Action.ARCHIVE, selection=Selection(queue="mail", state=TaskState.PENDING)
    ),
}
SCRIPTS = {
    "queue.paused": "pause",
    "task.canceled": "cancel",
    "task.deleted": "delete_tasks",
    "tasks.archived": "archive_tasks",
}


class Killed(BaseException):
    """What ends a process, as far as its own code can tell."""


@pytest.fixture
def mail(configuration: None) -> None:
    """Make a queue with a task."""
    save_queue(spec=spec("mail"), source=Source.API)
    put(get_broker(), "t1")


def told() -> list[tuple[str, Any]]:
    """Return what was recorded since: actions, and what came of them."""
    rows = AuditRecord.objects.exclude(action="queue.created").order_by("number")
    return [(row.action, json.loads(row.changes).get("outcome", {}).get("new")) for row in rows]


def at_the_change(monkeypatch: pytest.MonkeyPatch, action: str, do: Callable[[], object]) -> None:
    """Do something when the change is about to be made in Redis."""
    execute = SingleLink.execute

    def executing(self: SingleLink, commands: Sequence[Command]) -> Any:
        if any(call.script and call.script.name == SCRIPTS[action] for call in commands):
            do()
        return execute(self, commands)

    monkeypatch.setattr(SingleLink, "execute", executing)


def fail(error: BaseException) -> Callable[[], object]:
    """Return what raises."""

    def raising() -> None:
        raise error

    return raising


def refused(*_: Any, **__: Any) -> None:
    """Save a record as a database that is away does."""
    raise OperationalError


def keys_of(redis: redis_py.Redis) -> dict[bytes, bytes]:
    """Return what stands in Redis about the queue."""
    return {key: redis.dump(key) for key in redis.scan_iter("asynq:{mail}:*")}


@pytest.mark.parametrize("action", CHANGES)
def test_the_record_is_committed_before_redis_is_asked(monkeypatch: pytest.MonkeyPatch, action: str) -> None:
    seen: list[tuple[list[tuple[str, Any]], bool]] = []
    at_the_change(monkeypatch, action, lambda: seen.append((told(), connection.in_atomic_block)))

    CHANGES[action]()

    assert seen == [([(action, None)], False)]
    assert told() == [(action, None)]


@pytest.mark.parametrize("action", CHANGES)
def test_a_database_that_is_away_stops_the_change(
    monkeypatch: pytest.MonkeyPatch, redis: redis_py.Redis, action: str
) -> None:
    before = keys_of(redis)
    monkeypatch.setattr(AuditRecord, "save", refused)

    with pytest.raises(OperationalError):
        CHANGES[action]()
    assert keys_of(redis) == before


@pytest.mark.parametrize("action", CHANGES)
def test_a_database_that_goes_in_between_has_the_record(monkeypatch: pytest.MonkeyPatch, action: str) -> None:
    saved = AuditRecord.save
    at_the_change(
        monkeypatch,
        action,
        lambda: monkeypatch.setattr(AuditRecord, "save", lambda *_, **__: fail(OperationalError())()),
    )

    CHANGES[action]()

    monkeypatch.setattr(AuditRecord, "save", saved)
    assert told() == [(action, None)]


@pytest.mark.parametrize("action", CHANGES)
def test_what_is_not_known_to_have_happened_says_so(monkeypatch: pytest.MonkeyPatch, action: str) -> None:
    at_the_change(monkeypatch, action, fail(BrokerUnavailable()))

    with pytest.raises(BrokerUnavailable):
        CHANGES[action]()
    (first, amended) = AuditRecord.objects.exclude(action="queue.created").order_by("number")
    assert (amended.action, amended.object_name) == (f"{first.object_kind}.amended", first.object_name)
    assert json.loads(amended.changes) == {
        "amends": {"old": None, "new": first.number},
        "outcome": {"old": None, "new": "broker_unavailable"},
    }
    assert verify_chain().is_whole


@pytest.mark.parametrize("action", CHANGES)
def test_a_process_that_is_killed_leaves_the_record(monkeypatch: pytest.MonkeyPatch, action: str) -> None:
    at_the_change(monkeypatch, action, fail(Killed()))

    with pytest.raises(Killed):
        CHANGES[action]()
    assert told() == [(action, None)]


def test_a_task_that_is_taken_in_between_was_only_asked_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    at_the_change(monkeypatch, "task.canceled", lambda: take_one(get_broker()))

    assert not cancel_task(get_broker(), task_id="t1")
    assert told() == [("task.canceled", None), ("task.amended", "asked")]


def test_what_is_refused_after_all_says_so(monkeypatch: pytest.MonkeyPatch, redis: redis_py.Redis) -> None:
    at_the_change(monkeypatch, "task.deleted", lambda: redis.delete("asynq:{mail}:t:t1"))

    with pytest.raises(TaskNotFound):
        handle_task(get_broker(), action=Action.DELETE, queue="mail", task_id="t1")
    assert told() == [("task.deleted", None), ("task.amended", "task_not_found")]


def test_fewer_tasks_than_were_announced_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    put(get_broker(), "t2")
    at_the_change(monkeypatch, "tasks.archived", lambda: take_one(get_broker()))

    CHANGES["tasks.archived"]()

    assert told() == [("tasks.archived", None), ("queue.amended", "1 tasks")]


def test_what_is_so_already_is_not_recorded(redis: redis_py.Redis) -> None:
    for _ in range(2):
        pause_queue(get_broker(), name="mail")
        handle_task(get_broker(), action=Action.ARCHIVE, queue="mail", task_id="t1")

    assert told() == [("queue.paused", None), ("task.archived", None)]


def test_it_is_not_to_be_hidden_in_a_transaction() -> None:
    with (
        pytest.raises(RuntimeError, match="durable"),
        transaction.atomic(),
        announced(action="queue.paused", object_kind="queue", object_name="mail"),
    ):
        pass
