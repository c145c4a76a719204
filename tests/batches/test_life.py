"""The life of a batch: its members are enqueued, end, and its callback is enqueued once."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest
import redis as redis_py

from batches import runner
from batches.models import Batch, BatchRequest, Member, MemberState
from queues.definitions import LimitOverrides
from queues.deletion import delete_queue
from queues.models import QueueSource
from queues.operations import save_queue
from queues.queries import HIDDEN
from runqy.accounts.operations import create_api_key
from runqy.broker.keys import QueueKeys
from runqy.broker.streams.ends import Notify
from runqy.broker.tasks.inspector import delete_tasks, run_tasks
from runqy.broker.tasks.reader import read_tasks
from runqy.core.api_keys import Role
from runqy.errors import BrokerUnavailable
from tests.api.client import ApiClient
from tests.batches.conftest import Steps, body, counts, create
from tests.queues.samples import spec
from tests.support.maintenance_duties import delete_old_rows
from tests.support.redis_client import redis_of
from tests.support.staff import staff_client
from tests.support.tasks import take
from webhooks.models import Delivery


def test_a_batch_of_one_call_calls_back_once_when_all_have_ended(client: ApiClient, steps: Steps):
    batch_id = create(client, count=3)
    steps.enqueue()
    first, second, third = steps.take(3)
    steps.complete(first, second)
    steps.settle()
    assert steps.callbacks() == []

    steps.fail(third)
    steps.settle()
    steps.settle()

    (callback,) = steps.callbacks()
    shown = client.get(f"/batches/{batch_id}").json()
    assert (shown["callback"]["state"], shown["callback"]["task_id"]) == ("enqueued", callback)
    (record,) = steps.broker.run(read_tasks(steps.broker, [(steps.done, callback)]))
    payload = json.loads(record.payload)
    assert payload["to"] == "ann"
    assert {name: payload["batch"][name] for name in ("id", "name", "total")} == {
        "id": batch_id,
        "name": "b",
        "total": 3,
    }
    assert (payload["batch"]["counts"]["completed"], payload["batch"]["counts"]["archived"]) == (2, 1)
    assert payload["batch"]["url"].endswith(f"/batches/{batch_id}")
    assert shown["ended_at"]


@pytest.mark.parametrize(
    ("on", "fails", "calls_back"),
    [("succeeded", False, True), ("succeeded", True, False), ("failed", False, False), ("failed", True, True)],
)
def test_the_condition_decides_whether_it_calls_back(
    client: ApiClient, steps: Steps, on: str, fails: bool, calls_back: bool
):
    create(client, count=1, on=on)
    steps.enqueue()
    (taken,) = steps.take()
    (steps.fail if fails else steps.complete)(taken)
    steps.settle()

    assert len(steps.callbacks()) == calls_back


def test_a_batch_succeeds_after_its_members_were_run_again(client: ApiClient, steps: Steps):
    batch_id = create(client, count=1, on="succeeded")
    steps.enqueue()
    (taken,) = steps.take()
    steps.fail(taken)
    steps.settle()
    assert counts(batch_id) == {"archived": 1}

    steps.broker.run(run_tasks(steps.work, [taken.lease.task_id], now_ns=steps.broker.now_ns()))
    steps.complete(*steps.take())
    steps.settle()

    assert counts(batch_id) == {"completed": 1}
    assert len(steps.callbacks()) == 1


def test_nothing_is_called_back_before_the_batch_is_closed(client: ApiClient, steps: Steps):
    batch_id = create(client, count=0, close=False)
    for _ in range(2):
        response = client.post(f"/batches/{batch_id}/add", {"queue": "work", "jobs": [{"n": 1}]})
        assert (response.status_code, response.json()["added"]) == (200, 1)
        steps.enqueue()
        steps.complete(*steps.take())
        steps.settle()
    assert (steps.callbacks(), counts(batch_id)) == ([], {"completed": 2})

    assert client.post(f"/batches/{batch_id}/close").status_code == 200
    steps.enqueue()

    assert len(steps.callbacks()) == 1
    refused = client.post(f"/batches/{batch_id}/add", {"queue": "work", "jobs": [{}]})
    assert (refused.status_code, refused.json()["code"]) == (409, "batch_closed")


def test_endpoints_are_told_once_that_a_batch_has_ended(client: ApiClient, steps: Steps):
    for queues in (["done", "work"], ["other"]):
        endpoint = {"url": "https://hooks.example.com/runqy", "events": ["batch.ended"], "queues": queues}
        assert client.post("/api/webhooks", endpoint).status_code == 201
    batch_id = create(client, count=1)
    steps.enqueue()
    assert not Delivery.objects.exists()
    steps.complete(*steps.take())
    steps.settle()
    steps.settle()

    told = Delivery.objects.get()
    assert (told.event, told.endpoint.queues) == ("batch.ended", ["done", "work"])
    assert json.loads(told.body)["data"]["id"] == batch_id


def test_endpoints_that_cover_only_some_queues_of_a_batch_are_not_told(client: ApiClient, steps: Steps):
    for queues in (["work"], ["done", "other"], ["other", "work"], ["done", "other", "work"], []):
        endpoint = {"url": "https://hooks.example.com/runqy", "events": ["batch.ended"], "queues": queues}
        assert client.post("/api/webhooks", endpoint).status_code == 201
    batch_id = create(client, count=1, close=False)
    assert client.post(f"/batches/{batch_id}/add", {"queue": "other", "jobs": [{"data": 1}]}).status_code == 200
    assert client.post(f"/batches/{batch_id}/close").status_code == 200
    steps.enqueue()
    steps.complete(*steps.take(), *take(steps.broker, 1, "other"))
    steps.settle()

    assert sorted(told.endpoint.queues for told in Delivery.objects.all()) == [[], ["done", "other", "work"]]


def test_an_empty_batch_calls_back(client: ApiClient, steps: Steps):
    create(client, count=0)
    steps.enqueue()

    assert len(steps.callbacks()) == 1


def test_a_full_queue_delays_members_and_a_disabled_one_the_callback(
    client: ApiClient, steps: Steps, monkeypatch: pytest.MonkeyPatch
):
    save_queue(spec=spec("work", limits=LimitOverrides(max_waiting_tasks=1)), source=QueueSource.API)
    batch_id = create(client, count=2)
    monkeypatch.setattr("batches.runner.RETRY", timedelta())
    for _ in range(2):
        steps.enqueue()
        assert counts(batch_id)["waiting"] + counts(batch_id)["enqueued"] == 2
    assert "waiting tasks" in Member.objects.get(state=MemberState.WAITING).reason
    save_queue(spec=spec("done", is_enabled=False), source=QueueSource.API)
    for _ in range(2):
        steps.complete(*steps.take())
        steps.settle()
    assert counts(batch_id) == {"completed": 2}
    assert "disabled" in Batch.objects.get().callback_reason

    save_queue(spec=spec("done"), source=QueueSource.API)
    steps.enqueue()

    assert len(steps.callbacks()) == 1


def test_callbacks_are_enqueued_together_and_not_held_up_by_a_disabled_queue(
    client: ApiClient, steps: Steps, monkeypatch: pytest.MonkeyPatch
):
    calls: list[int] = []
    enqueue = runner.enqueue_intents
    monkeypatch.setattr(
        runner, "enqueue_intents", lambda broker, found: [calls.append(len(found)), enqueue(broker, found)][1]
    )
    monkeypatch.setattr(runner, "BATCHES_MAX", 2)
    for queue in ("other", "other", "other", "done", "done"):
        create(client, count=0, callback={"queue": queue})
    save_queue(spec=spec("other", is_enabled=False), source=QueueSource.API)

    steps.enqueue()

    assert len(steps.callbacks()) == 2
    assert calls == [2, 2]


def test_no_member_enters_another_queue_that_got_the_name_of_its_sub_queue(client: ApiClient, steps: Steps):
    save_queue(spec=spec("shop", "low:1", "high:5"), source=QueueSource.API)
    callback = {"queue": "shop_low", "payload": {}}
    batch_id = client.post("/batches", body(2, queue="shop_low", callback=callback)).json()["id"]
    delete_queue(steps.broker, name="shop_low")
    save_queue(spec=spec("shop_low"), source=QueueSource.API)  # of clients that know nothing of the queue shop

    steps.enqueue()
    steps.settle()

    batch = Batch.objects.get(pk=batch_id)
    assert (counts(batch_id)["refused"], batch.callback_state) == (2, "refused")
    assert not redis_of(steps.broker).exists(QueueKeys("shop_low").pending)


def test_deleted_and_canceled_tasks_end_their_members(client: ApiClient, steps: Steps):
    batch_id = create(client, count=3)
    steps.enqueue()
    (running,) = steps.take()
    deleted, _ = redis_of(steps.broker).lrange(QueueKeys(steps.work).pending, 0, -1)
    steps.broker.run(delete_tasks(steps.work, [deleted.decode()]))

    assert client.post(f"/batches/{batch_id}/cancel").json()["canceled"]
    steps.settle()
    steps.collect()
    assert counts(batch_id) == {"deleted": 1, "canceled": 1, "enqueued": 1}

    steps.fail(running)
    steps.settle()
    assert steps.callbacks()


def test_tasks_that_redis_does_not_cancel_now_are_cancelled_later(
    client: ApiClient, steps: Steps, redis: redis_py.Redis
):
    batch_id = create(client, count=3)
    steps.enqueue()
    assert client.post(f"/batches/{batch_id}/cancel").json()["canceled"]
    redis.config_set("min-replicas-to-write", 1)
    try:
        with pytest.raises(BrokerUnavailable):
            steps.enqueue()
    finally:
        redis.config_set("min-replicas-to-write", 0)
    assert counts(batch_id) == {"enqueued": 3}

    steps.settle()
    steps.collect()
    assert counts(batch_id) == {"canceled": 3}


def test_members_of_a_canceled_batch_are_not_enqueued(client: ApiClient, steps: Steps):
    batch_id = create(client, count=3)
    client.post(f"/batches/{batch_id}/cancel")
    steps.enqueue()

    assert counts(batch_id) == {"canceled": 3}
    assert not redis_of(steps.broker).exists(QueueKeys(steps.work).pending)
    steps.enqueue()
    assert len(steps.callbacks()) == 1


def test_a_member_whose_task_is_gone_is_lost_but_not_one_whose_end_is_unread(client: ApiClient, steps: Steps):
    batch_id = create(client, count=2, retention=0)
    steps.enqueue()
    done, gone = steps.take(2)
    steps.complete(done)
    redis_of(steps.broker).delete(QueueKeys(steps.work).task(gone.lease.task_id))

    steps.find_lost()

    assert counts(batch_id) == {"completed": 1, "lost": 1}


def test_an_end_that_a_worker_of_another_queue_forged_changes_nothing(client: ApiClient, steps: Steps):
    batch_id = create(client, count=1)
    steps.enqueue()
    (taken,) = steps.take()
    steps.complete(taken)
    (entry,) = redis_of(steps.broker).xrange(QueueKeys(steps.work).ends)
    redis_of(steps.broker).delete(QueueKeys(steps.work).ends)
    redis_of(steps.broker).xadd(QueueKeys("other").ends, entry[1])
    steps.collect()

    assert counts(batch_id) == {"enqueued": 1}


def test_an_end_that_is_read_twice_or_late_changes_nothing(client: ApiClient, steps: Steps):
    batch_id = create(client, count=1)
    steps.enqueue()
    (taken,) = steps.take()
    steps.fail(taken)
    (stale,) = redis_of(steps.broker).xrange(QueueKeys(steps.work).ends)
    steps.broker.run(run_tasks(steps.work, [taken.lease.task_id], now_ns=steps.broker.now_ns()))
    steps.complete(*steps.take())
    steps.collect()
    assert counts(batch_id) == {"completed": 1}

    redis_of(steps.broker).delete(QueueKeys(steps.work).ends)
    redis_of(steps.broker).xadd(QueueKeys(steps.work).ends, stale[1], id=stale[0])  # another process has read it before
    steps.collect()

    assert counts(batch_id) == {"completed": 1}


def test_ends_that_another_process_has_read_change_nothing(
    client: ApiClient, steps: Steps, monkeypatch: pytest.MonkeyPatch
):
    batch_id = create(client, count=2)
    steps.enqueue()
    first, second = steps.take(2)
    steps.fail(first, second)
    steps.broker.run(run_tasks(steps.work, [second.lease.task_id], now_ns=steps.broker.now_ns()))
    steps.complete(*steps.take())
    key = QueueKeys(steps.work).ends
    entries = redis_of(steps.broker).xrange(key)
    steps.collect()
    monkeypatch.setattr("batches.ends.settle", lambda *_: pytest.fail("a repeated end changed a member"))

    for repeated in (entries[:2], entries):
        redis_of(steps.broker).delete(key)
        for entry_id, entry in repeated:
            redis_of(steps.broker).xadd(key, entry, id=entry_id)
        steps.collect()

    assert (len(entries), counts(batch_id)) == (3, {"archived": 1, "completed": 1})


def test_the_page_shows_progress_and_who_may_cancel(client: ApiClient, steps: Steps):
    batch_id = create(client, count=2)
    steps.enqueue()
    failed, done = steps.take(2)
    steps.fail(failed)
    steps.complete(done)
    steps.collect()
    create(client, count=1)
    page = f"/admin/batches/batch/{batch_id}/"

    shown = staff_client("viewer").get(f"{page}change/").content.decode()
    listed = staff_client("viewer").get("/admin/batches/batch/").content.decode()

    assert "1 completed, 1 ended otherwise, of 2" in shown
    assert [failed.lease.task_id in shown, "E: 1" in shown] == [True, True]
    task = staff_client("viewer").get(f"/admin/tasks/task/{failed.lease.task_id}/change/", {"queue": steps.work})
    assert f'href="{page}change/"' in task.content.decode()
    completed = staff_client("viewer").get(f"{page}change/?state=completed").content.decode()
    assert [each.lease.task_id in completed for each in (failed, done)] == [False, True]
    assert "2 of 2 ended, 1 not completed" in listed
    other = Batch.objects.exclude(pk=batch_id).get()
    assert staff_client("viewer").post(f"/admin/batches/batch/{other.pk}/cancel/").status_code == 403
    asked = staff_client("operator").get(f"/admin/batches/batch/{other.pk}/cancel/").content.decode()
    assert ("1 of 1" in asked, Batch.objects.get(pk=other.pk).is_canceled) == (True, False)
    assert staff_client("operator").post(f"/admin/batches/batch/{other.pk}/cancel/").status_code == 302
    assert Batch.objects.get(pk=other.pk).is_canceled


def test_viewers_do_not_see_errors_of_a_queue_that_hides_payloads(client: ApiClient, steps: Steps):
    batch_id = create(client, count=1)
    steps.enqueue()
    steps.fail(*steps.take())
    steps.collect()
    viewer, operator = (ApiClient(create_api_key(name=role, role=role).plain) for role in (Role.VIEWER, Role.OPERATOR))

    def show() -> list[object]:
        pages = [staff_client(role).get(f"/admin/batches/batch/{batch_id}/change/") for role in ("viewer", "operator")]
        reasons = [each.get(f"/batches/{batch_id}").json()["members"][0]["reason"] for each in (viewer, operator)]
        return [*reasons, *("E: 1" in page.content.decode() for page in pages)]

    assert show() == ["E: 1", "E: 1", True, True]
    save_queue(spec=spec("work", deployment=replace(spec().deployment, hide_payloads=True)), source=QueueSource.API)
    assert show() == [HIDDEN, "E: 1", False, True]


def test_an_old_batch_is_deleted_with_its_members(client: ApiClient, steps: Steps, monkeypatch: pytest.MonkeyPatch):
    response = client.post("/batches", body(1), **{"Idempotency-Key": "k"})
    open_id = create(client, count=1)
    steps.enqueue()
    ended, _ = steps.take(2)
    steps.complete(ended)
    steps.settle()
    assert BatchRequest.objects.count() == 1
    monkeypatch.setattr("batches.runner.KEPT", timedelta())

    delete_old_rows()

    assert response.status_code == 201
    assert BatchRequest.objects.count() == 0
    assert [batch.pk for batch in Batch.objects.all()] == [open_id]
    assert Member.objects.count() == 1


def test_webhooks_of_a_member_and_of_the_callback_are_kept(client: ApiClient, steps: Steps):
    for name in ("work", "done"):
        save_queue(spec=spec(name, webhook_hosts=("hooks.example.com",)), source=QueueSource.API)
    webhook = {"url": "https://hooks.example.com/x"}
    jobs = [{"data": {}, "webhook": webhook}]
    batch_id = create(client, jobs=jobs, callback={"queue": "done", "options": {"webhook": webhook}})
    steps.enqueue()
    (taken,) = steps.take()
    steps.complete(taken)
    told = [notify_of(steps, steps.work, taken.lease.task_id)]
    steps.settle()
    told.append(notify_of(steps, steps.done, *steps.callbacks()))

    assert [(each.url, each.batch) for each in told] == [(webhook["url"], batch_id), (webhook["url"], "")]


def notify_of(steps: Steps, queue: str, task_id: str) -> Notify:
    return Notify.decode(redis_of(steps.broker).hget(QueueKeys(queue).task(task_id), "notify"))
