"""/batches."""

import threading
import uuid
from typing import Any

import pytest

from batches import queries
from batches.models import Batch, BatchRequest, Member
from queues.definitions import FieldType, PayloadField
from queues.models import QueueSource
from queues.operations import save_queue
from runqy.accounts.operations import create_api_key, revoke_api_key
from runqy.core.api_keys import Role
from tests.api.client import ApiClient, problem
from tests.batches.conftest import Steps, body
from tests.queues.samples import spec
from tests.support.environment import CLIENT_KEY


@pytest.fixture
def number_queue(client: ApiClient) -> None:
    """Let the queue accept numbers only."""
    schema = (PayloadField(name="n", type=(FieldType.INT,), required=True),)
    save_queue(spec=spec("work", input=schema), source=QueueSource.API)


def test_a_batch_is_created_with_its_members(client: ApiClient):
    response = ApiClient(CLIENT_KEY).post("/batches", body(2))

    created = response.json()
    assert (response.status_code, response["Location"]) == (201, f"/batches/{created['id']}")
    assert (created["closed"], created["total"], created["counts"]["waiting"]) == (True, 2, 2)
    assert (created["added"], created["failed"], created["errors"]) == (2, 0, [None, None])
    assert created["queues"] == ["done", "work"]
    shown = client.get(f"/batches/{created['id']}").json()
    assert [member["task_id"] for member in shown["members"]] == created["task_ids"]
    assert client.get("/batches").json()["batches"][0]["id"] == created["id"]
    assert created["created_by"]


def test_members_are_listed_by_page_and_state(client: ApiClient, steps: Steps):
    batch_id = client.post("/batches", body(5)).json()["id"]
    steps.enqueue()
    steps.complete(*steps.take(2))
    steps.collect()

    first = client.get(f"/batches/{batch_id}?limit=3").json()
    second = client.get(first["next"]).json()
    assert (len(first["members"]), len(second["members"]), second["next"]) == (3, 2, None)
    completed = client.get(f"/batches/{batch_id}?state=completed").json()["members"]
    assert [member["state"] for member in completed] == ["completed"] * 2
    assert client.get(f"/batches/{batch_id}?state=other").status_code == 400


def test_batches_are_listed_by_page_newest_first(
    client: ApiClient, monkeypatch: pytest.MonkeyPatch, django_assert_max_num_queries: Any
):
    both = ApiClient(create_api_key(name="b", role=Role.CLIENT, queues=["work", "done"]).plain)
    ids = [client.post("/batches", body(1)).json()["id"] for _ in range(3)]
    for _ in range(4):
        client.post("/batches", {"callback": {"queue": "other"}})
    monkeypatch.setattr(queries, "SCANNED_MAX", 3)

    assert len(client.get("/batches").json()["batches"]) == 7
    path, pages = "/batches?limit=2", list[list[str]]()
    while path:
        with django_assert_max_num_queries(2):
            page = both.get(path).json()
        pages.append([batch["id"] for batch in page["batches"]])
        path = page["next"]
        Batch.objects.exclude(pk__in=ids).delete()  # also the last one of the page

    assert pages == [[], ids[:0:-1], ids[:1]]


@pytest.mark.usefixtures("number_queue")
def test_invalid_jobs_get_no_row(client: ApiClient):
    jobs = [{"n": 1}, {"n": "x"}, {"data": {"n": 2}, "task_id": "x"}]

    created = client.post("/batches", body(jobs=jobs)).json()
    refused = client.post("/batches", body(jobs=jobs[1:]))

    assert (created["total"], created["failed"], Member.objects.count()) == (1, 2, 1)
    assert [error is None for error in created["errors"]] == [True, False, False]
    assert (refused.status_code, problem(refused)["code"], Batch.objects.count()) == (400, "batch_refused", 1)


def test_a_repeated_request_changes_nothing(client: ApiClient):
    first = client.post("/batches", body(2, close=False), **{"Idempotency-Key": "k1"})
    repeated = client.post("/batches", body(2, close=False), **{"Idempotency-Key": "k1"})
    path, jobs = f"/batches/{first.json()['id']}/add", {"queue": "work", "jobs": [{}]}
    added = [client.post(path, jobs, **{"Idempotency-Key": "k2"}).json() for _ in range(2)]
    other = client.post("/batches", body(3), **{"Idempotency-Key": "k1"})

    assert first.json()["task_ids"] == repeated.json()["task_ids"]
    assert repeated["Idempotent-Replayed"] == "true"
    assert added[0]["task_ids"] == added[1]["task_ids"]
    assert (Batch.objects.count(), Member.objects.count()) == (1, 3)
    assert (other.status_code, problem(other)["code"]) == (422, "idempotency_key_reused")


def test_jobs_have_the_ids_that_the_client_made(client: ApiClient, steps: Steps):
    used, elsewhere, first, second = (str(uuid.uuid4()) for _ in range(4))
    for queue, task_id in (("work", used), ("other", elsewhere)):
        assert client.post("/queue/add", {"queue": queue, "data": {}, "task_id": task_id}).status_code == 200
    jobs = [{"data": {}, "task_id": task_id} for task_id in (used, elsewhere, first)]
    batch_id, other_id = (client.post("/batches", body(jobs=jobs, close=False)).json()["id"] for _ in range(2))
    more = {"queue": "work", "jobs": [*jobs[2:], {"data": {}, "task_id": second}, {"data": {}, "task_id": second}]}
    for _ in range(2):
        added = client.post(f"/batches/{batch_id}/add", more).json()
        assert (added["task_ids"], added["total"]) == ([first, second, second], 4)
    for other_queue in (client.post(f"/batches/{batch_id}/add", more | {"queue": "other"}).json() for _ in range(2)):
        assert (other_queue["added"], other_queue["task_ids"], other_queue["total"]) == (0, [None] * 3, 4)
        assert other_queue["errors"][0] == f"task_id: {first} is the id of a task that another request created."
        assert "other" not in other_queue["queues"]
    mixed = client.post("/batches", body(jobs=[{"data": {}, "task_id": first}, {"data": {}}]))
    assert "Either each job has a task_id" in problem(mixed)["detail"] + str(problem(mixed)["errors"])

    steps.enqueue()

    states = {
        batch: dict(Member.objects.filter(batch=batch).values_list("task_id", "state"))
        for batch in (batch_id, other_id)
    }
    owner = batch_id if states[batch_id][first] == "enqueued" else other_id
    other = other_id if owner == batch_id else batch_id
    assert (states[owner][first], states[other][first], states[batch_id][second]) == ("enqueued", "refused", "enqueued")
    assert {states[batch][task_id] for batch in states for task_id in (used, elsewhere)} == {"refused"}
    assert f"{used} is the id of a task that another request created" in Member.objects.filter(task_id=used)[0].reason


def test_concurrent_requests_with_the_same_key_create_one_batch(client: ApiClient):
    responses = []
    threads = [
        threading.Thread(
            target=lambda: responses.append(ApiClient().post("/batches", body(1), **{"Idempotency-Key": "k"}).json())
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len({response["id"] for response in responses}) == 1
    assert (Batch.objects.count(), BatchRequest.objects.count(), Member.objects.count()) == (1, 1, 1)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"name": 1}, "name: Must be a text"),
        ({"close": "yes"}, "close: Must be true or false."),
        ({"on": "later"}, "on: Must be one of ended, succeeded, failed."),
        ({"callback": 1}, "callback: Must be an object"),
        ({"callback": {"payload": {}}}, "callback.queue: This field is required."),
        ({"callback": {"queue": "done", "payload": [1]}}, "callback.payload: Must be an object."),
        ({"callback": {"queue": "done", "payload": {"batch": 1}}}, "callback.payload: batch: The server sets"),
        ({"callback": {"queue": "done", "options": {"task_id": "x"}}}, "callback.options.task_id: Unknown option."),
        ({"callback": {"queue": "done", "retries": 1}}, "callback.retries: Unknown member."),
        ({"callback": {"queue": "done", "on": "failed"}}, "callback.on: Belongs beside callback."),
        ({"callback": {"queue": "done", "timeout": 5}}, "callback.timeout: Belongs into options."),
        ({"jobs": 1}, "jobs: Must be a list."),
        ({"other": 1}, "other: unknown."),
    ],
)
def test_wrong_input_is_refused_with_the_name_of_the_member(client: ApiClient, members: dict, message: str):
    response = client.post("/batches", body(1) | members)

    assert response.status_code == 400
    assert any(message in error for error in problem(response)["errors"]), problem(response)
    assert not Batch.objects.exists()


def test_on_needs_a_callback_and_unknown_queues_are_refused(client: ApiClient):
    assert client.post("/batches", {"on": "ended"}).status_code == 400
    assert client.post("/batches", body(1) | {"queue": "nowhere"}).status_code == 404
    assert client.post("/batches", body(1) | {"callback": {"queue": "nowhere"}}).status_code == 404


@pytest.mark.usefixtures("number_queue")
def test_the_queue_of_the_callback_must_accept_its_payload(client: ApiClient):
    response = client.post("/batches", {"callback": {"queue": "work", "payload": {"n": "x"}}, "close": True})

    assert (response.status_code, problem(response)["code"]) == (400, "payload_invalid")


def test_what_does_not_exist_is_not_found(client: ApiClient):
    for call in (
        lambda: client.get("/batches/x"),
        lambda: client.post("/batches/x/add", {"queue": "work", "jobs": [{}]}),
        lambda: client.post("/batches/x/close"),
        lambda: client.post("/batches/x/cancel"),
    ):
        response = call()
        assert (response.status_code, problem(response)["code"]) == (404, "batch_not_found")


def test_a_key_limited_to_queues_uses_only_these_callbacks_included(client: ApiClient):
    limited = ApiClient(create_api_key(name="w", role=Role.CLIENT, queues=["work"]).plain)
    both = ApiClient(create_api_key(name="b", role=Role.CLIENT, queues=["work", "done"]).plain)

    assert limited.post("/batches", body(1)).status_code == 404
    created = both.post("/batches", body(1, close=False)).json()
    for path in (f"/batches/{created['id']}",):
        assert limited.get(path).status_code == 404
        assert both.get(path).status_code == 200
    assert limited.post(f"/batches/{created['id']}/close").status_code == 404
    assert limited.get("/batches").json()["batches"] == []


def test_a_batch_without_queues_belongs_to_the_key_that_made_it(client: ApiClient):
    maker, other = (ApiClient(create_api_key(name=n, role=Role.CLIENT, queues=["work"]).plain) for n in ("a", "b"))
    path = f"/batches/{maker.post('/batches', {'name': 'empty'}).json()['id']}"

    assert (other.get(path).status_code, other.post(f"{path}/cancel").status_code) == (404, 404)
    assert other.get("/batches").json()["batches"] == []
    assert maker.get(path).status_code == 200
    assert maker.post(f"{path}/add", {"queue": "work", "jobs": [{}]}).status_code == 200
    assert other.get(path).status_code == 200


def test_revoking_the_key_of_a_batch_stops_nothing(client: ApiClient, steps: Steps):
    key = create_api_key(name="gone", role=Role.CLIENT)
    batch_id = ApiClient(key.plain).post("/batches", body(1)).json()["id"]
    revoke_api_key(key_id=key.row.pk)
    steps.enqueue()
    steps.complete(*steps.take())
    steps.settle()

    assert len(steps.callbacks()) == 1
    assert client.get(f"/batches/{batch_id}").json()["created_by"] == "gone"
