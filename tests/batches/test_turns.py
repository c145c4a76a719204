"""Owners take turns, then their batches, by chunks."""

import sys
from datetime import timedelta
from typing import Any

import pytest

from batches import runner
from batches.models import Batch, Member, MemberState
from batches.runner import BatchWork
from queues.definitions import LimitOverrides
from queues.models import QueueSource
from queues.operations import save_queue
from runqy import redis_connection
from runqy.broker.keys import QueueKeys
from runqy.errors import OutcomeUnknown
from tests.api.client import ApiClient
from tests.batches.conftest import Steps, body, counts
from tests.batches.test_limits import jobs, new_key
from tests.queues.samples import spec
from tests.support.maintenance_duties import MovingClock
from tests.support.redis_client import redis_of


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "CHUNK", 2)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> MovingClock:
    monkeypatch.setattr(redis_connection, "_check_clock", lambda _: None)
    return MovingClock(monkeypatch)


def take_turns(steps: Steps, count: int, monkeypatch: pytest.MonkeyPatch, work: BatchWork | None = None) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(runner, "TURNS_MAX", count)
        (work or BatchWork()).run(steps.broker)


def enqueued() -> dict[str, int]:
    """Return the number of enqueued members by the name of their batch."""
    return {batch.name: batch.counts.get("enqueued", 0) for batch in Batch.objects.all()}


def test_a_batch_of_one_does_not_wait_behind_those_of_another_key(
    client: ApiClient, steps: Steps, clock: MovingClock, monkeypatch: pytest.MonkeyPatch
):
    greedy, victim = new_key(), new_key()
    for number in range(30):
        clock.advance(0.001)
        assert greedy.post("/batches", {"name": f"large {number}", **jobs(10)}).status_code == 201
    clock.advance(1)
    assert victim.post("/batches", {"name": "one", **jobs(1)}).status_code == 201

    take_turns(steps, 2, monkeypatch)

    assert {name: count for name, count in enqueued().items() if count} == {"large 0": 2, "one": 1}


def test_batches_of_a_key_take_turns(
    client: ApiClient, steps: Steps, clock: MovingClock, monkeypatch: pytest.MonkeyPatch
):
    key, work = new_key(), BatchWork()
    for name, count in (("a", 20), ("b", 20), ("one", 1)):
        clock.advance(0.001)
        assert key.post("/batches", {"name": name, **jobs(count)}).status_code == 201

    for _ in range(4):
        clock.advance(0.001)
        take_turns(steps, 1, monkeypatch, work)

    assert enqueued() == {"a": 4, "b": 2, "one": 1}


def test_callbacks_of_owners_take_turns(client: ApiClient, steps: Steps, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runner, "BATCHES_MAX", 2)
    greedy, victim = new_key(), new_key()
    for _ in range(10):
        assert greedy.post("/batches", {"callback": {"queue": "done"}, "close": True}).status_code == 201
    mine = victim.post("/batches", {"callback": {"queue": "done"}, "close": True}).json()["id"]

    take_turns(steps, 2, monkeypatch)

    assert Batch.objects.get(pk=mine).callback_state == "enqueued"
    assert Batch.objects.filter(callback_state="waiting").count() == 8


def test_a_full_queue_holds_up_neither_other_queues_nor_other_batches(
    client: ApiClient, steps: Steps, clock: MovingClock
):
    save_queue(spec=spec("work", limits=LimitOverrides(max_waiting_tasks=1)), source=QueueSource.API)
    batch_id = client.post("/batches", {"name": "mixed", **jobs(5)}).json()["id"]
    client.post(f"/batches/{batch_id}/add", jobs(5, queue="other"))
    client.post("/batches", {"name": "beside", **jobs(3, queue="other")})

    BatchWork().run(steps.broker)

    assert enqueued() == {"mixed": 6, "beside": 3}
    assert Batch.objects.get(pk=batch_id).busy_until > steps.broker.now() + runner.RETRY / 2


def test_a_chunk_is_limited_in_bytes(client: ApiClient, steps: Steps, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runner, "CHUNK", 100)
    monkeypatch.setattr(runner, "CHUNK_BYTES", 5000)
    client.post("/batches", {"name": "large", **jobs(5, 2000)})

    take_turns(steps, 1, monkeypatch)
    assert enqueued() == {"large": 2}
    monkeypatch.setattr(runner, "CHUNK_BYTES", 1)
    take_turns(steps, 1, monkeypatch)

    assert enqueued() == {"large": 3}


def test_the_claim_of_a_process_that_died_ends_within_30_seconds(
    client: ApiClient, steps: Steps, clock: MovingClock, monkeypatch: pytest.MonkeyPatch
):
    batch_id = client.post("/batches", body(2)).json()["id"]
    with monkeypatch.context() as patched:
        patched.setattr(runner, "_enqueue", lambda *_: sys.exit("killed"))
        with pytest.raises(SystemExit):
            BatchWork().run(steps.broker)

    clock.advance(runner.ATTEMPT_S)  # Redis may still enqueue what the process sent
    BatchWork().run(steps.broker)
    assert counts(batch_id) == {"waiting": 2}
    clock.advance(25 - runner.ATTEMPT_S)
    BatchWork().run(steps.broker)

    assert counts(batch_id) == {"enqueued": 2}


def test_a_batch_whose_turn_found_no_redis_is_tried_again_at_once(
    client: ApiClient, steps: Steps, clock: MovingClock, monkeypatch: pytest.MonkeyPatch
):
    batch_id, work, enqueue = client.post("/batches", body(2)).json()["id"], BatchWork(), runner.enqueue_intents

    def lose_reply(*args: Any) -> Any:
        enqueue(*args)
        raise OutcomeUnknown

    with monkeypatch.context() as patched:
        patched.setattr(runner, "enqueue_intents", lose_reply)
        with pytest.raises(OutcomeUnknown):
            work.run(steps.broker)
    steps.complete(*steps.take(1))
    steps.collect()
    work.run(steps.broker)

    assert counts(batch_id) == {"completed": 1, "enqueued": 1}
    assert redis_of(steps.broker).llen(QueueKeys(steps.work).pending) == 1


def test_a_batch_that_is_cancelled_or_added_to_during_its_turn_goes_on(
    client: ApiClient, steps: Steps, monkeypatch: pytest.MonkeyPatch
):
    batch_id = client.post("/batches", body(2, close=False)).json()["id"]
    path, work = f"/batches/{batch_id}", BatchWork()

    def meanwhile(*requests: tuple[str, Any]) -> None:
        enqueue = runner._enqueue  # noqa: SLF001 (the step during which the requests come)
        with monkeypatch.context() as patched:

            def enqueue_then_request(*args: Any) -> Any:
                found = enqueue(*args)
                for part, content in requests:
                    assert client.post(f"{path}/{part}", content).status_code == 200
                return found

            patched.setattr(runner, "_enqueue", enqueue_then_request)
            take_turns(steps, 1, monkeypatch, work)

    meanwhile(("add", jobs(2)))
    meanwhile(("cancel", b""))
    work.run(steps.broker)
    steps.collect()

    assert counts(batch_id) == {"canceled": 4}
    assert Batch.objects.get(pk=batch_id).busy_until is None


def test_a_batch_that_is_cancelled_while_nothing_of_it_waits_is_cancelled_later(
    client: ApiClient, steps: Steps, monkeypatch: pytest.MonkeyPatch
):
    batch_id, work = client.post("/batches", body(2)).json()["id"], BatchWork()
    work.run(steps.broker)
    Batch.objects.update(busy_until=steps.broker.now())

    def find_none_and_cancel(*_: Any) -> list[Member]:
        assert client.post(f"/batches/{batch_id}/cancel").status_code == 200
        return []

    with monkeypatch.context() as patched:
        patched.setattr(runner, "_next_members", find_none_and_cancel)
        take_turns(steps, 1, monkeypatch, work)
    work.run(steps.broker)
    steps.collect()

    assert counts(batch_id) == {"canceled": 2}


def test_a_member_that_ends_before_it_is_marked_stays_ended(
    client: ApiClient, steps: Steps, monkeypatch: pytest.MonkeyPatch
):
    batch_id, mark = client.post("/batches", body(2)).json()["id"], runner._mark  # noqa: SLF001 (the step that is late)

    def end_then_mark(*args: Any) -> None:
        steps.complete(*steps.take(1))
        steps.collect()
        mark(*args)

    monkeypatch.setattr(runner, "_mark", end_then_mark)
    BatchWork().run(steps.broker)

    assert counts(batch_id) == {"completed": 1, "enqueued": 1}


def test_a_process_without_a_batch_of_its_own_leaves_claimed_ones(client: ApiClient, steps: Steps, clock: MovingClock):
    batch_id = client.post("/batches", body(1)).json()["id"]
    Batch.objects.update(busy_until=steps.broker.now() + timedelta(seconds=1))

    BatchWork().run(steps.broker)

    assert counts(batch_id) == {"waiting": 1}
    assert Member.objects.get().state == MemberState.WAITING
