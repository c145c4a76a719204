"""Changes of Redis are recorded in Redis before they are made: none without its record, whatever goes when."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import redis as redis_py

from queues.models import QueueSource
from queues.operations import save_queue
from queues.pausing import pause_queue
from runqy.audit.models import AuditRecord
from runqy.audit.operations import move_pending
from runqy.broker import keys
from runqy.broker.replies import Reply
from runqy.broker.scripts import Command
from runqy.broker.states import TaskState
from runqy.broker.streams import audit_stream
from runqy.configuration.snapshot import get_snapshot
from runqy.errors import AuditNotRecorded, BrokerUnavailable
from runqy.redis_connection import get_broker
from tasks.actions import TaskAction, TaskFilter, apply_action, apply_to_matching, cancel_task
from tests.queues.samples import spec
from tests.support.links import Execute, wrap_link
from tests.support.lost_replies import lose_reply
from tests.support.tasks import put

pytestmark = pytest.mark.usefixtures("mail")

CHANGES: dict[str, Callable[[], object]] = {
    "queue.paused": lambda: pause_queue(get_broker(), name="mail"),
    "task.canceled": lambda: cancel_task(get_broker(), task_id="t1"),
    "task.deleted": lambda: apply_action(get_broker(), action=TaskAction.DELETE, queue="mail", task_id="t1"),
    "tasks.archived": lambda: apply_to_matching(
        get_broker(), action=TaskAction.ARCHIVE, task_filter=TaskFilter(queue="mail", state=TaskState.PENDING)
    ),
}
SCRIPTS = {
    "queue.paused": "pause",
    "task.canceled": "cancel",
    "task.deleted": "delete_tasks",
    "tasks.archived": "archive_tasks",
}


class Killed(BaseException):
    """An exception that ends a process like a kill: no handler catches it."""


@pytest.fixture
def mail(configuration: None) -> None:
    """Make a queue with a task."""
    save_queue(spec=spec("mail"), source=QueueSource.API)
    put(get_broker(), "t1")


def audited() -> list[str]:
    """Return the actions that were recorded since."""
    move_pending()
    return list(AuditRecord.objects.exclude(action="queue.created").order_by("number").values_list("action", flat=True))


def at_the_change(monkeypatch: pytest.MonkeyPatch, action: str, do: Callable[[], object]) -> None:
    """Do something when the change is about to be made in Redis."""

    async def executing(execute: Execute, commands: Sequence[Command]) -> list[Reply]:
        if any(call.script and call.script.name == SCRIPTS[action] for call in commands):
            do()
        return await execute(commands)

    wrap_link(monkeypatch, get_broker(), executing)


def fail(error: BaseException) -> Callable[[], object]:
    """Return what raises."""

    def raising() -> None:
        raise error

    return raising


def keys_of(redis: redis_py.Redis) -> dict[bytes, bytes]:
    """Return the queue's data in Redis."""
    return {key: redis.dump(key) for key in redis.scan_iter("asynq:{mail}:*")}


@pytest.mark.parametrize("action", CHANGES)
def test_the_record_is_in_redis_before_the_change_and_uses_no_database(
    monkeypatch: pytest.MonkeyPatch, redis: redis_py.Redis, action: str, django_assert_num_queries: Any
) -> None:
    get_snapshot()
    seen: list[int] = []
    at_the_change(monkeypatch, action, lambda: seen.append(redis.xlen(keys.AUDIT_STREAM)))

    with django_assert_num_queries(0):
        CHANGES[action]()

    assert seen == [1]
    assert audited() == [action]


@pytest.mark.parametrize("action", CHANGES)
def test_a_full_stream_stops_the_change(monkeypatch: pytest.MonkeyPatch, redis: redis_py.Redis, action: str) -> None:
    before = keys_of(redis)
    monkeypatch.setattr(audit_stream, "MAX_ENTRIES", 0)

    with pytest.raises(AuditNotRecorded):
        CHANGES[action]()
    assert keys_of(redis) == before
    assert audited() == []


@pytest.mark.parametrize("action", CHANGES)
def test_a_change_that_fails_leaves_its_record(monkeypatch: pytest.MonkeyPatch, action: str) -> None:
    at_the_change(monkeypatch, action, fail(BrokerUnavailable()))

    with pytest.raises(BrokerUnavailable):
        CHANGES[action]()

    assert audited() == [action]


@pytest.mark.parametrize("action", CHANGES)
def test_a_lost_reply_to_the_record_neither_stops_the_change_nor_doubles_the_record(
    monkeypatch: pytest.MonkeyPatch, redis: redis_py.Redis, action: str
) -> None:
    before = keys_of(redis)
    lost = lose_reply(monkeypatch, "append_audit")

    CHANGES[action]()

    assert lost
    assert keys_of(redis) != before
    assert redis.xlen(keys.AUDIT_STREAM) == 2
    assert audited() == [action]


@pytest.mark.parametrize("action", CHANGES)
def test_a_process_that_is_killed_leaves_the_record(monkeypatch: pytest.MonkeyPatch, action: str) -> None:
    at_the_change(monkeypatch, action, fail(Killed()))

    with pytest.raises(Killed):
        CHANGES[action]()
    assert audited() == [action]


def test_an_unchanged_state_is_not_recorded(redis: redis_py.Redis) -> None:
    for _ in range(2):
        pause_queue(get_broker(), name="mail")
        apply_action(get_broker(), action=TaskAction.ARCHIVE, queue="mail", task_id="t1")

    assert audited() == ["queue.paused", "task.archived"]
