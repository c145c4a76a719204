"""Batches whose members or callback wait for long, and batches that cannot be handled."""

import sys
from datetime import timedelta

import pytest
from django.utils import timezone

from batches import runner
from batches.models import Batch, Member, MemberState, WaitingMembers
from queues.definitions import LimitOverrides
from queues.models import QueueSource
from queues.operations import save_queue
from runqy import redis_connection
from runqy.broker.keys import QueueKeys
from runqy.broker.tasks.inspector import delete_tasks
from runqy.maintenance.models import FailedRow
from tests.api.client import ApiClient
from tests.batches.conftest import Steps, counts, create
from tests.queues.samples import spec
from tests.support.maintenance_duties import MovingClock
from tests.support.redis_client import redis_of


def test_a_process_that_was_stopped_for_a_minute_enqueues_nothing(client: ApiClient, steps: Steps):
    batch = Batch.objects.get(pk=create(client, count=1, jobs=[{"data": {}, "retention": 0}]))
    read_earlier = list(batch.members.all())
    until_s = steps.broker.now_s() - 50
    for member in read_earlier:
        member.requested_s = until_s - runner.ATTEMPT_S
    steps.enqueue()
    steps.complete(*steps.take())
    steps.collect()
    for key in redis_of(steps.broker).scan_iter("*created*"):  # forgotten after a minute
        redis_of(steps.broker).delete(key)

    runner._enqueue(steps.broker, batch, read_earlier, until_s)  # noqa: SLF001 (what the process does next)

    assert redis_of(steps.broker).llen(QueueKeys(steps.work).pending) == 0
    assert counts(batch.pk) == {"completed": 1}


def test_lost_members_are_found_behind_many_open_batches(
    client: ApiClient, steps: Steps, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(runner, "BATCHES_MAX", 2)
    for _ in range(5):
        create(client, count=1)
    for _ in range(3):
        steps.enqueue()
    for member in Member.objects.all():
        redis_of(steps.broker).delete(QueueKeys(steps.work).task(member.task_id))

    for _ in range(3):
        steps.find_lost()

    assert {member.state for member in Member.objects.all()} == {MemberState.LOST}


def test_batches_that_are_paused_take_no_turn_in_the_search_for_lost_members(
    client: ApiClient, steps: Steps, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(runner, "BATCHES_MAX", 2)
    *odd, good = sorted(create(client, count=1) for _ in range(3))
    for _ in range(3):
        steps.enqueue()
    for member in Member.objects.all():
        redis_of(steps.broker).delete(QueueKeys(steps.work).task(member.task_id))
    now = timezone.now()
    pause = {"error": "ValueError", "since": now, "paused_until": now + timedelta(minutes=1)}
    FailedRow.objects.bulk_create(FailedRow(kind="batch", key=pk, name=pk, **pause) for pk in odd)

    steps.find_lost()

    assert Member.objects.get(state=MemberState.LOST).batch_id == good


def test_members_of_a_cancelled_batch_that_wait_are_cancelled_in_one_pass(
    client: ApiClient, steps: Steps, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(runner, "CHUNK", 2)
    batch_id = create(client, count=5)
    assert client.post(f"/batches/{batch_id}/cancel").status_code == 200

    steps.enqueue()

    assert counts(batch_id) == {"canceled": 5}


def test_members_wait_for_days_behind_a_full_queue(
    client: ApiClient, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_connection, "_check_clock", lambda _: None)
    monkeypatch.setattr(runner, "CHUNK", 1)  # not all are tried each time
    clock = MovingClock(monkeypatch)
    save_queue(spec=spec("work", limits=LimitOverrides(max_waiting_tasks=1)), source=QueueSource.API)
    batch_id = create(client, count=3)

    for _ in range(3):
        steps.enqueue()
        clock.advance(20 * 3600)
    waiting = counts(batch_id)
    for _ in range(3):
        steps.complete(*steps.take())
        clock.advance(10)
        steps.settle()

    assert waiting == {"enqueued": 1, "waiting": 2}
    assert counts(batch_id) == {"completed": 3}


def test_a_member_that_was_interrupted_for_a_day_is_unknown(
    client: ApiClient, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_connection, "_check_clock", lambda _: None)
    clock = MovingClock(monkeypatch)
    batch_id = create(client, count=1)
    with monkeypatch.context() as patched:
        patched.setattr(runner, "_mark", lambda *_: sys.exit("killed"))
        with pytest.raises(SystemExit):
            steps.enqueue()
    steps.broker.run(delete_tasks(steps.work, [Member.objects.get().task_id]))
    clock.advance(24 * 3600)
    records = redis_of(steps.broker).keys(QueueKeys(steps.work).created("*"))
    assert redis_of(steps.broker).delete(*records) == 1  # it has expired

    steps.enqueue()

    assert (counts(batch_id), steps.take()) == ({"unknown": 1}, [])


def test_a_batch_that_cannot_be_handled_holds_up_no_other(client: ApiClient, steps: Steps):
    odd, other = create(client, count=1, name="odd"), create(client, count=1, name="other")
    create(client, count=1, name="good")
    Member.objects.filter(batch_id=odd).update(request=b"\xc1")
    WaitingMembers.objects.filter(batch_id=odd).update(size_bytes=1)
    Batch.objects.filter(pk=other).update(callback_request=b"\xc1")

    steps.enqueue()
    steps.complete(*steps.take(3))
    steps.settle()

    states = dict(Batch.objects.values_list("name", "callback_state"))
    assert states == {"odd": "planned", "good": "enqueued", "other": "waiting"}
    assert sorted(FailedRow.objects.values_list("kind", "name")) == [("batch", "odd"), ("callback", "of batch other")]


def test_a_callback_waits_for_days_behind_a_disabled_queue(
    client: ApiClient, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_connection, "_check_clock", lambda _: None)
    clock = MovingClock(monkeypatch)
    create(client, count=0)
    save_queue(spec=spec("done", is_enabled=False), source=QueueSource.API)
    for _ in range(3):
        steps.enqueue()
        clock.advance(20 * 3600)

    save_queue(spec=spec("done"), source=QueueSource.API)
    steps.enqueue()

    assert len(steps.callbacks()) == 1


def test_a_member_whose_deadline_passes_while_it_waits_is_expired(
    client: ApiClient, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_connection, "_check_clock", lambda _: None)
    clock = MovingClock(monkeypatch)
    deadline = f"{steps.broker.now() + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}"
    jobs = [{"data": {"n": 1}, "deadline": deadline}, {"data": {"n": 2}}]
    batch_id = create(client, queue="work", jobs=jobs)
    clock.advance(3700)

    steps.enqueue()

    assert counts(batch_id) == {"enqueued": 1, "expired": 1}
