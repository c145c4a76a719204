"""Deletions that are interrupted at each step, concurrent changes, and dropped sub-queues."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis as redis_py
from django.db import transaction

from queues import deletion, pending_deletions
from queues.deletion import delete_queue, delete_queues, finish_deletions
from queues.models import Queue, QueueDeletion, QueueSource
from queues.operations import change_queue, save_queue
from queues.queries import get_fresh_catalog
from queues.queue_files import load_queue_files
from runqy.audit.actors import Actor, ActorKind, actor_context
from runqy.audit.models import AuditRecord
from runqy.configuration.models import StoredDocument
from runqy.errors import BrokerUnavailable, QueueBeingDeleted, QueueNotEmpty, QueueNotFound
from runqy.maintenance.models import FailedRow
from runqy.redis_connection import get_broker
from tests.queues.samples import spec
from tests.queues.stored import list_keys
from tests.support.database import database_variables
from tests.support.tasks import put

pytestmark = pytest.mark.usefixtures("configuration", "_no_delays")

STEPS = ("change_queue", "publish", "_count", "delete_definition", "delete_redis_queue")


class Killed(BaseException):
    """Ends a deletion like the end of its process."""


@pytest.fixture
def _no_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deletion, "PROPAGATION_S", 0)
    monkeypatch.setattr(pending_deletions, "LEASE_S", 0)


def save(*args: str, **changes: Any) -> None:
    save_queue(spec=spec(*args, **changes), source=QueueSource.API)


def killed_at(monkeypatch: pytest.MonkeyPatch, step: str, *, after: bool = False) -> Callable[[], None]:
    """Return a function that deletes `mail` by force until it is killed before or after a step."""
    real = getattr(deletion, step)

    def die(*args: Any, **kwargs: Any) -> None:
        if after:
            real(*args, **kwargs)
        raise Killed

    def run() -> None:
        with monkeypatch.context() as patched:
            patched.setattr(deletion, step, die)
            patched.setattr(pending_deletions.DeletionLease, "__exit__", lambda *_: None)
            with pytest.raises(Killed):
                delete_queue(get_broker(), name="mail", force=True)

    return run


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS[1:])
def test_maintenance_finishes_a_deletion_whose_process_was_killed(
    monkeypatch: pytest.MonkeyPatch, redis: redis_py.Redis, step: str, after: bool
) -> None:
    save("mail")
    put(get_broker(), "t1", "t2")
    killed_at(monkeypatch, step, after=after)()
    assert QueueDeletion.objects.exists()

    finish_deletions(get_broker())

    assert list_keys(redis) == []
    assert not Queue.objects.exists()
    assert not QueueDeletion.objects.exists()
    assert get_fresh_catalog(max_age_s=0).definitions == ()


@pytest.mark.parametrize("step", STEPS)
def test_the_same_call_finishes_an_interrupted_deletion(
    monkeypatch: pytest.MonkeyPatch, redis: redis_py.Redis, step: str
) -> None:
    save("mail")
    put(get_broker(), "t1")
    killed_at(monkeypatch, step)()

    removed = delete_queue(get_broker(), name="mail", force=True)

    assert removed.tasks["pending"] == 1
    assert list_keys(redis) == []
    with pytest.raises(QueueNotFound):
        delete_queue(get_broker(), name="mail")


def test_a_deletion_by_force_remains_one_when_a_call_without_force_continues_it(
    monkeypatch: pytest.MonkeyPatch, redis: redis_py.Redis
) -> None:
    save("mail")
    put(get_broker(), "t1")
    killed_at(monkeypatch, STEPS[1])()

    delete_queue(get_broker(), name="mail")

    assert list_keys(redis) == []


def test_a_deletion_that_was_not_committed_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, redis: redis_py.Redis
) -> None:
    save("mail")
    put(get_broker(), "t1")
    killed_at(monkeypatch, "change_queue", after=True)()

    finish_deletions(get_broker())

    assert Queue.objects.get().is_enabled
    assert redis.llen("asynq:{mail}:pending") == 1


def test_maintenance_finishes_the_deletion_of_a_killed_process(redis: redis_py.Redis) -> None:
    save("mail")
    put(get_broker(), *[f"t{number}" for number in range(1500)])
    words = [sys.executable, "-m", "tests.queues.deleting_process", "mail"]
    with subprocess.Popen(words, env=os.environ | database_variables(), stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"two steps\n"
        child.kill()
    assert redis.llen("asynq:{mail}:pending") == 500
    QueueDeletion.objects.update(leased_until="2020-01-01T00:00Z")  # as if 30 s had gone by

    finish_deletions(get_broker())

    assert list_keys(redis) == []
    assert not Queue.objects.exists()


def test_late_tasks_reopen_a_queue_whose_deletion_was_interrupted(
    monkeypatch: pytest.MonkeyPatch, redis: redis_py.Redis
) -> None:
    save("inference", "high:10", "low:3")
    with monkeypatch.context() as patched:
        patched.setattr(deletion, "publish", _unavailable)
        with pytest.raises(BrokerUnavailable):
            delete_queue(get_broker(), name="inference_low")
    assert get_fresh_catalog(max_age_s=0).redis_queues() == ["inference_high"]
    put(get_broker(), "t1", queue="inference_low")

    finish_deletions(get_broker())

    assert get_fresh_catalog(max_age_s=0).redis_queues() == ["inference_high", "inference_low"]
    assert redis.llen("asynq:{inference_low}:pending") == 1
    assert not QueueDeletion.objects.exists()


def test_maintenance_records_the_actor_that_requested_the_deletion(monkeypatch: pytest.MonkeyPatch) -> None:
    save("mail")
    put(get_broker(), "t1")
    with actor_context(Actor(kind=ActorKind.USER, name="ann", id="7")):
        killed_at(monkeypatch, "publish")()

    finish_deletions(get_broker())

    rows = AuditRecord.objects.filter(action__in=["queue.deleted", "queue.emptied"])
    assert {(row.actor_kind, row.actor_name, row.actor_id) for row in rows} == {("user", "ann", "7")}


@pytest.mark.parametrize("step", ["publish", "delete_redis_queue"])
@pytest.mark.parametrize("name", ["mail", "mail_default"])
def test_a_name_that_is_being_deleted_cannot_be_saved(monkeypatch: pytest.MonkeyPatch, step: str, name: str) -> None:
    save("mail")
    killed_at(monkeypatch, step)()
    subs = () if name == "mail" else ("default:1",)

    with pytest.raises(QueueBeingDeleted):
        save(name.partition("_")[0], *subs)
    finish_deletions(get_broker())
    save(name.partition("_")[0], *subs)


def test_a_new_queue_of_the_same_name_keeps_its_tasks(redis: redis_py.Redis) -> None:
    save("mail")
    delete_queue(get_broker(), name="mail")
    save("mail")
    put(get_broker(), "t1")

    finish_deletions(get_broker())

    assert redis.llen("asynq:{mail}:pending") == 1


def test_one_process_at_a_time_works_on_a_deletion(monkeypatch: pytest.MonkeyPatch) -> None:
    save("mail")
    monkeypatch.setattr(pending_deletions, "LEASE_S", 600)
    refused: list[type[Exception]] = []

    def meanwhile(*_: Any) -> None:
        finish_deletions(get_broker())
        try:
            delete_queue(get_broker(), name="mail")
        except QueueBeingDeleted as error:
            refused.append(type(error))

    monkeypatch.setattr(deletion, "time", SimpleNamespace(sleep=meanwhile))

    delete_queue(get_broker(), name="mail")

    assert refused == [QueueBeingDeleted]


def test_a_process_that_lost_its_lease_stops(monkeypatch: pytest.MonkeyPatch, redis: redis_py.Redis) -> None:
    save("mail")
    put(get_broker(), "t1")
    monkeypatch.setattr(pending_deletions, "_EXTEND_AFTER_S", 0)

    def taken_over(_: float) -> None:
        pending_deletions.DeletionLease(QueueDeletion.objects.get())

    monkeypatch.setattr(deletion, "time", SimpleNamespace(sleep=taken_over))

    with pytest.raises(QueueBeingDeleted):
        delete_queue(get_broker(), name="mail", force=True)
    assert redis.llen("asynq:{mail}:pending") == 1


def test_a_dropped_sub_queue_leaves_nothing_in_redis(redis: redis_py.Redis) -> None:
    save("inference", "high:10", "low:3")
    redis.set("asynq:{inference_low}:processed", 5)
    redis.sadd("asynq:queues", "inference_low", "inference_high")

    save("inference", "high:10")
    finish_deletions(get_broker())

    assert list_keys(redis) == ["asynq:queues"]
    assert redis.smembers("asynq:queues") == {b"inference_high"}


def test_a_first_sub_queue_leaves_nothing_under_the_own_name_of_the_queue(redis: redis_py.Redis) -> None:
    save("inference")
    redis.set("asynq:{inference}:processed", 5)

    save("inference", "high:10")
    finish_deletions(get_broker())

    assert list_keys(redis) == []
    assert get_fresh_catalog(max_age_s=0).redis_queues() == ["inference_high"]


def test_a_sub_queue_with_waiting_tasks_cannot_be_dropped() -> None:
    save("inference", "high:10", "low:3")
    put(get_broker(), "t1", queue="inference_low")

    with pytest.raises(QueueNotEmpty, match="inference_low has 1 pending task;"):
        save("inference", "high:10")
    assert Queue.objects.get().sub_queues.count() == 2


def test_late_tasks_of_a_dropped_sub_queue_are_kept_until_it_is_added_again(redis: redis_py.Redis) -> None:
    save("inference", "high:10", "low:3")
    save("inference", "high:10")
    put(get_broker(), "t1", queue="inference_low")

    finish_deletions(get_broker())
    assert redis.llen("asynq:{inference_low}:pending") == 1
    save("inference", "high:10", "low:3")

    finish_deletions(get_broker())
    assert redis.llen("asynq:{inference_low}:pending") == 1
    assert not QueueDeletion.objects.exists()


def test_a_sub_queue_can_be_dropped_while_redis_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    save("inference", "high:10", "low:3")
    monkeypatch.setattr(pending_deletions, "count_tasks", _unavailable)

    save("inference", "high:10")

    assert QueueDeletion.objects.get().redis_queues == ["inference_low"]


def test_deleting_a_queue_includes_its_dropped_sub_queues(redis: redis_py.Redis) -> None:
    save("inference", "high:10", "low:3")
    save("inference", "high:10")
    put(get_broker(), "t1", queue="inference_low")

    with pytest.raises(QueueNotEmpty):
        delete_queue(get_broker(), name="inference")
    delete_queue(get_broker(), name="inference", force=True)

    assert list_keys(redis) == []
    assert not QueueDeletion.objects.exists()


def test_many_queues_are_deleted_with_one_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c"):
        save(name)
    put(get_broker(), "t1", queue="b")
    waits: list[float] = []
    monkeypatch.setattr(deletion, "time", SimpleNamespace(sleep=waits.append))

    outcomes = delete_queues(get_broker(), names=["a", "b", "c", "d"])

    assert [type(outcomes[name]).__name__ for name in "abcd"] == [
        *("DeletedQueue", "QueueNotEmpty", "DeletedQueue", "QueueNotFound")
    ]
    assert len(waits) == 1


def test_pruning_leaves_nothing_in_redis_and_keeps_queues_with_waiting_tasks(
    redis: redis_py.Redis, tmp_path: Path
) -> None:
    for name in ("done", "busy"):
        save_queue(spec=spec(name), source=QueueSource.FILE)
        put(get_broker(), f"{name}-1", queue=name)
    redis.delete("asynq:{done}:pending", "asynq:{done}:t:done-1", "asynq:t:done-1")

    report = load_queue_files(directory=tmp_path, prune=True)

    assert (report.missing, report.removed) == (["busy", "done"], ["done"])
    (error,) = report.errors
    assert (error.key, "1 pending" in error.reason) == ("queues.busy", True)
    assert not [name for name in list_keys(redis) if "{done}" in name]
    assert load_queue_files(directory=tmp_path, prune=True, force=True).removed == ["busy"]
    assert list_keys(redis) == []


def test_a_queue_with_tasks_is_refused_without_being_closed() -> None:
    save("mail")
    put(get_broker(), "t1")
    before = StoredDocument.objects.get(kind="queue").revision

    with pytest.raises(QueueNotEmpty):
        delete_queue(get_broker(), name="mail")

    assert StoredDocument.objects.get(kind="queue").revision == before


def test_a_sub_queue_that_is_saved_while_it_is_closed_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    save("inference", "high:2", "low:1")
    # Not the function of the module, which the threads of the database call too.
    monkeypatch.setattr(deletion, "time", SimpleNamespace(sleep=lambda _: save("inference", "high:2", "low:1")))

    with pytest.raises(QueueNotEmpty, match="saved again"):
        delete_queue(get_broker(), name="inference.low")

    assert [sub.name for sub in Queue.objects.get().as_spec().sub_queues] == ["high", "low"]


def test_a_deletion_inside_a_transaction_is_an_error() -> None:
    save("mail")

    with pytest.raises(RuntimeError, match="durable"), transaction.atomic():
        delete_queue(get_broker(), name="mail")


def test_a_disabled_queue_is_reopened_as_disabled(monkeypatch: pytest.MonkeyPatch) -> None:
    save_queue(spec=spec("mail"), source=QueueSource.FILE)
    change_queue(spec=replace(spec("mail"), is_enabled=False))
    monkeypatch.setattr(deletion, "time", SimpleNamespace(sleep=lambda _: put(get_broker(), "t1")))

    with pytest.raises(QueueNotEmpty):
        delete_queue(get_broker(), name="mail")

    assert (Queue.objects.get().is_enabled, Queue.objects.get().source) == (False, "file")


def _unavailable(*_: Any, **__: Any) -> Any:
    raise BrokerUnavailable


ACTOR = {"kind": "server", "name": "server", "id": ""}


def test_a_deletion_that_cannot_be_continued_holds_up_no_other() -> None:
    for name in ("mail", "video"):
        save(name)
        change_queue(spec=spec(name, is_enabled=False))
        QueueDeletion.objects.create(
            queue=name,
            redis_queues=[name],
            is_whole=True,
            is_forced=True,
            leased_until="2020-01-01T00:00Z",
            actor=ACTOR,
        )
    QueueDeletion.objects.filter(queue="mail").update(actor=7)

    finish_deletions(get_broker())

    assert list(Queue.objects.values_list("name", flat=True)) == ["mail"]
    assert FailedRow.objects.get().queue == "mail"
