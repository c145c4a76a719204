"""How much may wait in the database: by Redis queue and by owner, in number and in bytes, and for how long."""

import json
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection

from batches import operations
from batches.models import Batch, Member, MemberState, WaitingMembers
from batches.runner import OPEN_FOR, close_abandoned_batches
from queues.definitions import LimitOverrides
from queues.models import QueueSource
from queues.operations import save_queue
from runqy import redis_connection
from runqy.accounts.operations import create_api_key, revoke_api_key
from runqy.audit.models import AuditRecord
from runqy.core.api_keys import Role
from runqy.errors import ApiKeyAlreadyRevoked
from tests.api.client import ApiClient, problem
from tests.batches.conftest import Steps, body, counts
from tests.queues.samples import spec
from tests.support.maintenance_duties import MovingClock
from tests.support.staff import staff_client
from tests.support.waiting import PATIENCE_S


def new_key(*queues: str) -> ApiClient:
    return ApiClient(create_api_key(name="k", role=Role.CLIENT, queues=list(queues)).plain)


def jobs(count: int, size: int = 0, queue: str = "work") -> dict[str, Any]:
    return {"queue": queue, "jobs": [{"data": "x" * size} for _ in range(count)]}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> MovingClock:
    monkeypatch.setattr(redis_connection, "_check_clock", lambda _: None)
    return MovingClock(monkeypatch)


def test_waiting_members_are_limited_by_key_and_by_queue(
    client: ApiClient, steps: Steps, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(operations, "MAX_WAITING_MEMBERS", 20)
    first, second, third = new_key(), new_key(), new_key()

    assert first.post("/batches", jobs(15)).status_code == 201  # alone, more than its half
    of_key = first.post("/batches", jobs(1, queue="other"))
    assert second.post("/batches", jobs(5)).status_code == 201
    of_queue = third.post("/batches", jobs(1))

    assert (of_key.status_code, problem(of_key)["code"], int(of_key["Retry-After"]) > 0) == (429, "batches_full", True)
    assert problem(of_key)["detail"] == "15 members of batches wait of this key; at most 10 may."
    assert problem(of_queue)["detail"] == "20 members of batches wait for the queue work; at most 20 may."
    assert third.post("/batches", jobs(1, queue="other")).status_code == 201
    steps.enqueue()
    assert [key.post("/batches", jobs(1)).status_code for key in (first, third)] == [201, 201]


def test_bytes_of_waiting_members_and_callbacks_are_limited(
    client: ApiClient, steps: Steps, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(operations, "MAX_WAITING_BYTES", 200_000)
    large = {"callback": {"queue": "done", "payload": {"x": "y" * 60_000}}, "on": "failed", "close": True}
    first, second = new_key(), new_key()

    batch_id = first.post("/batches", jobs(1, 90_000)).json()["id"]
    added = first.post(f"/batches/{batch_id}/add", jobs(1, 20_000, queue="other"))
    assert second.post("/batches", large).status_code == 201  # its callback is never due, and is kept for days
    again = second.post("/batches", large)

    assert [each.status_code for each in (added, again)] == [429, 429]
    assert "bytes of members of batches wait of this key; at most 100,000 may." in problem(added)["detail"]
    assert second.post("/batches", {"callback": {"queue": "done"}}).status_code == 201
    Batch.objects.exclude(pk=batch_id).delete()
    assert second.post("/batches", large).status_code == 201
    Batch.objects.filter(on="failed").delete()


def test_requests_that_arrive_at_the_same_time_are_limited_together(
    client: ApiClient, steps: Steps, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(operations, "MAX_WAITING_MEMBERS", 20)
    keys, have_looked, once = [new_key() for _ in range(6)], Barrier(6), operations._once  # noqa: SLF001 (held back)

    def wait_for_others(*arguments: Any) -> Any:
        have_looked.wait(PATIENCE_S)
        return once(*arguments)

    def send(key: ApiClient) -> int:
        try:
            return key.post("/batches", jobs(5)).status_code
        finally:
            connection.close()

    monkeypatch.setattr(operations, "_once", wait_for_others)
    with ThreadPoolExecutor(len(keys)) as threads:
        statuses = list(threads.map(send, keys))

    assert sorted(statuses) == [201] * 4 + [429] * 2
    assert Member.objects.count() == 20


def test_what_a_callback_takes_is_free_once_it_is_enqueued(client: ApiClient, steps: Steps):
    batch_id = client.post("/batches", body(0, callback={"queue": "done", "payload": {"x": "y" * 60_000}})).json()["id"]
    assert WaitingMembers.objects.get().size_bytes > 60_000

    steps.enqueue()

    assert not WaitingMembers.objects.exists()
    assert Batch.objects.get(pk=batch_id).callback_request is None


def test_a_batch_larger_than_max_waiting_tasks_goes_on_trickling(client: ApiClient, steps: Steps, clock: MovingClock):
    save_queue(spec=spec("work", limits=LimitOverrides(max_waiting_tasks=2)), source=QueueSource.API)
    batch_id = new_key().post("/batches", jobs(6)).json()["id"]

    for left in (4, 2, 0):
        clock.advance(10)
        steps.enqueue()
        assert counts(batch_id).get("waiting", 0) == left
        steps.complete(*steps.take(2))
        steps.collect()

    assert counts(batch_id) == {"completed": 6}


def test_an_end_that_arrives_before_the_mark_is_counted(
    client: ApiClient, steps: Steps, clock: MovingClock, monkeypatch: pytest.MonkeyPatch
):
    batch_id = client.post("/batches", body(3)).json()["id"]
    with monkeypatch.context() as patched:
        patched.setattr("batches.runner._mark", lambda *_: None)
        patched.setattr("batches.runner.TURNS_MAX", 1)
        steps.enqueue()
    steps.complete(*steps.take(1))
    steps.collect()

    assert counts(batch_id) == {"waiting": 2, "completed": 1}
    assert WaitingMembers.objects.get().count == 2


def test_a_batch_that_nobody_closes_is_closed_a_week_after_the_last_addition(
    client: ApiClient, steps: Steps, clock: MovingClock
):
    quiet, active = (client.post("/batches", body(0, close=False)).json()["id"] for _ in range(2))
    clock.advance(OPEN_FOR.total_seconds() - 60)
    assert client.post(f"/batches/{active}/add", jobs(1)).status_code == 200
    close_abandoned_batches(steps.broker)
    assert not Batch.objects.filter(is_closed=True).exists()
    clock.advance(120)

    close_abandoned_batches(steps.broker)
    steps.enqueue()

    assert [(row.pk, row.is_abandoned) for row in Batch.objects.filter(is_closed=True)] == [(quiet, True)]
    assert len(steps.callbacks()) == 1


class TestRevocation:
    """What becomes of batches when the key that created them is revoked."""

    @pytest.fixture
    def key_id(self, client: ApiClient) -> int:
        """Return a key with batches: one that waits, one that is empty and open; another key has one too."""
        key = create_api_key(name="leaked", role=Role.CLIENT)
        for wanted in (body(3), {"name": "empty"}):
            assert ApiClient(key.plain).post("/batches", wanted).status_code == 201
        assert new_key().post("/batches", body(1)).status_code == 201
        return key.row.pk

    def test_it_shows_how_many_members_wait_and_cancels_them_only_when_asked(
        self, client: ApiClient, steps: Steps, key_id: int
    ):
        assert client.get(f"/api/keys/{key_id}").json()["waiting_members"] == 3

        kept = client.delete(f"/api/keys/{key_id}").json()
        assert (kept["waiting_members"], kept["canceled_batches"]) == (3, 0)
        canceled = client.delete(f"/api/keys/{key_id}?cancel_batches=true").json()
        nothing_left = client.delete(f"/api/keys/{key_id}?cancel_batches=true")

        assert (canceled["waiting_members"], canceled["canceled_batches"]) == (0, 2)
        assert nothing_left.status_code == 409
        steps.enqueue()
        assert {batch.name: (batch.counts, batch.is_ended) for batch in Batch.objects.filter(is_canceled=True)} == {
            "b": ({"canceled": 3}, True),
            "empty": ({}, True),
        }
        assert list(Member.objects.exclude(state=MemberState.CANCELED).values_list("state", flat=True)) == ["enqueued"]
        changes = AuditRecord.objects.get(action="api_key.batches_canceled").changes
        assert json.loads(changes) == {"canceled_batches": {"old": None, "new": 2}}

    def test_the_form_offers_it(self, client: ApiClient, steps: Steps, key_id: int):
        admin, page = staff_client("admin"), f"/admin/accounts/apikey/{key_id}/revoke/"

        assert "3 members of them wait to be enqueued" in admin.get(page).content.decode()
        admin.post(page, {"confirmed": "yes", "cancel_batches": "yes"})

        assert Batch.objects.filter(is_canceled=True).count() == 2

    def test_the_command_says_it(self, client: ApiClient, steps: Steps, key_id: int, capsys: Any):
        call_command("revoke_api_key", str(key_id))
        assert "wait and will be enqueued: 3; use --cancel-batches" in capsys.readouterr().err
        call_command("revoke_api_key", str(key_id), "--cancel-batches")
        assert "batches that are being cancelled: 2" in capsys.readouterr().out
        with pytest.raises(ApiKeyAlreadyRevoked):
            revoke_api_key(key_id=key_id, cancel_batches=True)
