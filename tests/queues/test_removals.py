"""Removals that are cut off, at every step; what is saved meanwhile; and sub-queues that are left out."""

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

from queues import removal, removing
from queues.loading import load_queue_files
from queues.models import Queue, QueueRemoval, Source
from queues.operations import change_queue, save_queue
from queues.queries import get_fresh_catalog
from queues.removal import finish_removals, get_tasks_at_stake, remove_queue, remove_queues
from runqy.audit.actors import Actor, ActorKind, actor_context
from runqy.audit.models import AuditRecord
from runqy.connection import get_broker
from runqy.errors import BrokerUnavailable, QueueBeingRemoved, QueueNotEmpty, QueueNotFound
from tests.queues.samples import spec
from tests.support.tasks import put
from tests.support.web import database_variables

pytestmark = pytest.mark.usefixtures("configuration", "_no_delays")

STEPS = ("change_queue", "publish", "_count", "delete_definition", "remove_redis_queue")


class Killed(BaseException):
    """What ends a process, as far as its own code can tell."""


@pytest.fixture
def _no_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removal, "SETTLE_S", 0)
    monkeypatch.setattr(removing, "CLAIM_S", 0)


def save(*args: str, **changes: Any) -> None:
    save_queue(spec=spec(*args, **changes), source=Source.API)


def left(redis: redis_py.Redis) -> list[str]:
    """Return the keys in Redis beside the configuration's."""
    found = sorted(key.decode() for key in redis.scan_iter(count=1000))
    return [key for key in found if not key.startswith(("runqy:config", "runqy:revisions"))]


def killed_at(monkeypatch: pytest.MonkeyPatch, step: str, *, after: bool = False) -> Callable[[], None]:
    """Return what removes `mail` by force until it is killed before or after a step."""
    real = getattr(removal, step)

    def die(*args: Any, **kwargs: Any) -> None:
        if after:
            real(*args, **kwargs)
        raise Killed

    def run() -> None:
        with monkeypatch.context() as patched:
            patched.setattr(removal, step, die)
            patched.setattr(removing.Claim, "__exit__", lambda *_: None)
            with pytest.raises(Killed):
                remove_queue(get_broker(), name="mail", force=True)

    return run


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS[1:])
def test_maintenance_finishes_a_removal_that_was_killed(
    monkeypatch: pytest.MonkeyPatch, redis: redis_py.Redis, step: str, after: bool
) -> None:
    save("mail")
    put(get_broker(), "t1", "t2")
    killed_at(monkeypatch, step, after=after)()
    assert QueueRemoval.objects.exists()

    finish_removals(get_broker())

    assert left(redis) == []
    assert not Queue.objects.exists()
    assert not QueueRemoval.objects.exists()
    assert get_fresh_catalog(max_age_s=0).definitions == ()


@pytest.mark.parametrize("step", STEPS)
def test_the_same_call_finishes_it_too(monkeypatch: pytest.MonkeyPatch, redis: redis_py.Redis, step: str) -> None:
    save("mail")
    put(get_broker(), "t1")
    killed_at(monkeypatch, step)()

    removed = remove_queue(get_broker(), name="mail", force=True)

    assert removed.tasks["pending"] == 1
    assert left(redis) == []
    with pytest.raises(QueueNotFound):
        remove_queue(get_broker(), name="mail")


def test_what_did_not_begin_changes_nothing(monkeypatch: pytest.MonkeyPatch, redis: redis_py.Redis) -> None:
    save("mail")
    put(get_broker(), "t1")
    killed_at(monkeypatch, "change_queue", after=True)()

    finish_removals(get_broker())

    assert Queue.objects.get().is_enabled
    assert redis.llen("asynq:{mail}:pending") == 1


def test_a_process_that_is_really_killed_leaves_what_maintenance_finishes(redis: redis_py.Redis) -> None:
    save("mail")
    put(get_broker(), *[f"t{number}" for number in range(1500)])
    words = [sys.executable, "-m", "tests.queues.removing_process", "mail"]
    with subprocess.Popen(words, env=os.environ | database_variables(), stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"two steps\n"
        child.kill()
    assert redis.llen("asynq:{mail}:pending") == 500
    QueueRemoval.objects.update(claimed_until="2020-01-01T00:00Z")  # as if 30 s had gone by

    finish_removals(get_broker())

    assert left(redis) == []
    assert not Queue.objects.exists()


def test_tasks_that_came_in_last_open_a_queue_again_whose_removal_was_cut_off(
    monkeypatch: pytest.MonkeyPatch, redis: redis_py.Redis
) -> None:
    save("inference", "high:10", "low:3")
    with monkeypatch.context() as patched:
        patched.setattr(removal, "publish", _unavailable)
        with pytest.raises(BrokerUnavailable):
            remove_queue(get_broker(), name="inference_low")
    assert get_fresh_catalog(max_age_s=0).redis_queues() == ["inference_high"]
    put(get_broker(), "t1", queue="inference_low")

    finish_removals(get_broker())

    assert get_fresh_catalog(max_age_s=0).redis_queues() == ["inference_high", "inference_low"]
    assert redis.llen("asynq:{inference_low}:pending") == 1
    assert not QueueRemoval.objects.exists()


def test_maintenance_records_who_asked_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    save("mail")
    put(get_broker(), "t1")
    with actor_context(Actor(kind=ActorKind.USER, name="ann", id="7")):
        killed_at(monkeypatch, "publish")()

    finish_removals(get_broker())

    rows = AuditRecord.objects.filter(action__in=["queue.deleted", "queue.emptied"])
    assert {(row.actor_kind, row.actor_name, row.actor_id) for row in rows} == {("user", "ann", "7")}


@pytest.mark.parametrize("step", ["publish", "remove_redis_queue"])
@pytest.mark.parametrize("name", ["mail", "mail_default"])
def test_nothing_is_made_under_a_name_that_is_being_removed(
    monkeypatch: pytest.MonkeyPatch, step: str, name: str
) -> None:
    save("mail")
    killed_at(monkeypatch, step)()
    subs = () if name == "mail" else ("default:1",)

    with pytest.raises(QueueBeingRemoved):
        save(name.partition("_")[0], *subs)
    finish_removals(get_broker())
    save(name.partition("_")[0], *subs)


def test_what_is_made_under_the_name_next_keeps_its_tasks(redis: redis_py.Redis) -> None:
    save("mail")
    remove_queue(get_broker(), name="mail")
    save("mail")
    put(get_broker(), "t1")

    finish_removals(get_broker())

    assert redis.llen("asynq:{mail}:pending") == 1


def test_two_processes_are_never_at_one_removal(monkeypatch: pytest.MonkeyPatch) -> None:
    save("mail")
    monkeypatch.setattr(removing, "CLAIM_S", 30)
    refused: list[type[Exception]] = []

    def meanwhile(*_: Any) -> None:
        finish_removals(get_broker())
        try:
            remove_queue(get_broker(), name="mail")
        except QueueBeingRemoved as error:
            refused.append(type(error))

    monkeypatch.setattr(removal, "time", SimpleNamespace(sleep=meanwhile))

    remove_queue(get_broker(), name="mail")

    assert refused == [QueueBeingRemoved]


def test_a_process_that_lost_its_claim_stops(monkeypatch: pytest.MonkeyPatch, redis: redis_py.Redis) -> None:
    save("mail")
    put(get_broker(), "t1")
    monkeypatch.setattr(removing, "_RENEW_AFTER_S", 0)

    def taken_over(_: float) -> None:
        removing.Claim(QueueRemoval.objects.get())

    monkeypatch.setattr(removal, "time", SimpleNamespace(sleep=taken_over))

    with pytest.raises(QueueBeingRemoved):
        remove_queue(get_broker(), name="mail", force=True)
    assert redis.llen("asynq:{mail}:pending") == 1


def test_a_sub_queue_that_is_left_out_leaves_nothing_in_redis(redis: redis_py.Redis) -> None:
    save("inference", "high:10", "low:3")
    redis.set("asynq:{inference_low}:processed", 5)
    redis.sadd("asynq:queues", "inference_low", "inference_high")

    save("inference", "high:10")
    finish_removals(get_broker())

    assert left(redis) == ["asynq:queues"]
    assert redis.smembers("asynq:queues") == {b"inference_high"}


def test_a_queue_that_gets_its_first_sub_queue_leaves_nothing_under_its_own_name(redis: redis_py.Redis) -> None:
    save("inference")
    redis.set("asynq:{inference}:processed", 5)

    save("inference", "high:10")
    finish_removals(get_broker())

    assert left(redis) == []
    assert get_fresh_catalog(max_age_s=0).redis_queues() == ["inference_high"]


def test_a_sub_queue_is_not_left_out_while_its_tasks_wait() -> None:
    save("inference", "high:10", "low:3")
    put(get_broker(), "t1", queue="inference_low")

    with pytest.raises(QueueNotEmpty, match="In inference_low 1 tasks wait and 0 run"):
        save("inference", "high:10")
    assert Queue.objects.get().sub_queues.count() == 2


def test_tasks_that_slip_into_a_sub_queue_that_is_left_out_are_kept_until_it_comes_back(redis: redis_py.Redis) -> None:
    save("inference", "high:10", "low:3")
    save("inference", "high:10")
    put(get_broker(), "t1", queue="inference_low")

    finish_removals(get_broker())
    assert redis.llen("asynq:{inference_low}:pending") == 1
    save("inference", "high:10", "low:3")

    finish_removals(get_broker())
    assert redis.llen("asynq:{inference_low}:pending") == 1
    assert not QueueRemoval.objects.exists()


def test_a_sub_queue_can_be_left_out_while_redis_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    save("inference", "high:10", "low:3")
    monkeypatch.setattr(removing, "count_tasks", _unavailable)

    save("inference", "high:10")

    assert QueueRemoval.objects.get().redis_queues == ["inference_low"]


def test_a_queue_takes_what_is_left_of_its_sub_queues_with_it(redis: redis_py.Redis) -> None:
    save("inference", "high:10", "low:3")
    save("inference", "high:10")
    put(get_broker(), "t1", queue="inference_low")

    with pytest.raises(QueueNotEmpty):
        remove_queue(get_broker(), name="inference")
    remove_queue(get_broker(), name="inference", force=True)

    assert left(redis) == []


def test_many_queues_are_removed_with_one_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c"):
        save(name)
    put(get_broker(), "t1", queue="b")
    waits: list[float] = []
    monkeypatch.setattr(removal, "time", SimpleNamespace(sleep=waits.append))

    outcomes = remove_queues(get_broker(), names=["a", "b", "c", "d"])

    assert [type(outcomes[name]).__name__ for name in "abcd"] == [
        *("RemovedQueue", "QueueNotEmpty", "RemovedQueue", "QueueNotFound")
    ]
    assert len(waits) == 1


def test_pruning_leaves_nothing_in_redis_and_keeps_queues_whose_tasks_wait(
    redis: redis_py.Redis, tmp_path: Path
) -> None:
    for name in ("done", "busy"):
        save_queue(spec=spec(name), source=Source.FILE, file_digest="x")
        put(get_broker(), f"{name}-1", queue=name)
    redis.delete("asynq:{done}:pending", "asynq:{done}:t:done-1", "asynq:t:done-1")

    report = load_queue_files(directory=tmp_path, prune=True)

    assert (report.missing, report.removed) == (["busy", "done"], ["done"])
    (error,) = report.errors
    assert (error.key, "1 tasks wait" in error.reason) == ("queues.busy", True)
    assert not [name for name in left(redis) if "{done}" in name]
    assert load_queue_files(directory=tmp_path, prune=True, force=True).removed == ["busy"]
    assert left(redis) == []


def test_it_is_not_to_be_hidden_in_a_transaction() -> None:
    save("mail")

    with pytest.raises(RuntimeError, match="durable"), transaction.atomic():
        remove_queue(get_broker(), name="mail")


def test_what_is_at_stake_is_counted_for_each_redis_queue() -> None:
    save("inference", "high:10", "low:3")
    put(get_broker(), "t1", "t2", queue="inference_low")

    counts = get_tasks_at_stake(get_broker(), "inference")

    assert [(queue.queue, queue.pending) for queue in counts] == [("inference_high", 0), ("inference_low", 2)]
    with pytest.raises(QueueNotFound):
        get_tasks_at_stake(get_broker(), "inference", allowed_queues=frozenset({"mail"}))


def test_a_removed_queue_that_was_disabled_is_opened_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    save_queue(spec=spec("mail"), source=Source.FILE)
    change_queue(spec=replace(spec("mail"), is_enabled=False))
    monkeypatch.setattr(removal, "time", SimpleNamespace(sleep=lambda _: put(get_broker(), "t1")))

    with pytest.raises(QueueNotEmpty):
        remove_queue(get_broker(), name="mail")

    assert (Queue.objects.get().is_enabled, Queue.objects.get().source) == (False, "file")


def _unavailable(*_: Any, **__: Any) -> Any:
    raise BrokerUnavailable
