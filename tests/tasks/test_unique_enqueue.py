"""POST /queue/add with options, a unique key, an idempotency key, and waiting for the result."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest
import redis as redis_py

from queues.models import QueueSource
from queues.operations import save_queue
from runqy.accounts.operations import create_api_key
from runqy.broker.asynq_pb2 import TaskMessage
from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.tasks.cancel import cancel
from runqy.core.api_keys import Role
from tasks.waiting import ResultWaiters, WaiterLimits
from tasks.waiting_loop import get_waiting_loop
from tests.api.client import ApiClient, Response, problem
from tests.queues.samples import spec
from tests.support.environment import ADMIN_KEY
from tests.support.tasks import take_one
from tests.support.waiting import PATIENCE_S, wait_until
from tests.tasks.task_helpers import fail_for_good, succeed

SIMPLE = QueueKeys("simple")
UNIQUE = {"queue": "simple", "data": {"n": 1}, "unique_key": "invoice 7"}
RETURNS = UNIQUE | {"on_conflict": "return"}


def add(client: ApiClient, body: Any, **headers: str) -> Response:
    """Put a task on a queue."""
    return client.post("/queue/add", body, **headers)


def info(response: Response) -> dict[str, Any]:
    """Return the task in a response."""
    assert response.status_code in (200, 202), response.content
    found: dict[str, Any] = json.loads(response.content)["info"]
    return found


def message(redis: redis_py.Redis, task_id: str) -> TaskMessage:
    """Return the stored message of a task."""
    return TaskMessage.FromString(redis.hget(SIMPLE.task(task_id), "msg"))


def test_options_are_stored_in_the_message(client: ApiClient, redis: redis_py.Redis) -> None:
    options = {"process_at": "2099-12-31T23:59:59.2+02:00", "deadline": "2100-01-01T00:00:00Z", "retention": "1.5h"}

    found = info(add(client, {"queue": "simple", "data": {}, "timeout": 5, "max_retry": 1, **options}))

    stored = message(redis, found["id"])
    assert (stored.deadline, stored.retention, stored.timeout, stored.retry) == (4_102_444_800, 5400, 5, 1)
    assert redis.zscore(SIMPLE.scheduled, found["id"]) == 4_102_437_600
    assert (found["deadline"], found["next_process_at"]) == ("2100-01-01T00:00:00Z", "2099-12-31T22:00:00Z")


def test_a_process_at_in_the_past_enqueues_at_once(client: ApiClient) -> None:
    assert (
        info(add(client, {"queue": "simple", "data": {}, "process_at": "2020-01-01T00:00:00Z"}))["state"] == "pending"
    )


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"process_at": "tomorrow"}, "process_at"),
        ({"process_at": 5}, "process_at"),
        ({"process_at": "2030-01-01T00:00:00"}, "process_at"),
        ({"process_at": "2030-01-01Z"}, "process_at"),
        ({"process_at": "1960-01-01T00:00:00Z"}, "process_at"),
        ({"process_at": "2030-01-01T00:00:00Z", "delay": 3}, "process_at"),
        ({"deadline": None}, "deadline"),
        ({"deadline": "2020-01-01T00:00:00Z"}, "deadline"),
        ({"deadline": "2090-01-01T00:00:00Z", "process_at": "2091-01-01T00:00:00Z"}, "deadline"),
        ({"deadline": "0001-01-01T00:00:00+14:00"}, "deadline"),
        ({"retention": -1}, "retention"),
        ({"retention": "1 hour"}, "retention"),
        ({"unique_key": ""}, "unique_key"),
        ({"unique_key": "x" * 257}, "unique_key"),
        ({"unique_key": 7}, "unique_key"),
        ({"unique_key": "u", "unique_for": 0}, "unique_for"),
        ({"unique_key": "u", "unique_for": "0.5s"}, "unique_for"),
        ({"unique_key": "u", "unique_until": "started"}, "unique_until"),
        ({"unique_key": "u", "unique_until": "finished", "unique_for": 5}, "unique_for"),
        ({"unique_key": "u", "on_conflict": "replace"}, "on_conflict"),
        ({"unique_for": 5}, "unique_for"),
        ({"on_conflict": "return"}, "on_conflict"),
    ],
)
def test_invalid_options_are_refused_by_name(
    client: ApiClient, redis: redis_py.Redis, options: dict[str, Any], name: str
) -> None:
    response = add(client, {"queue": "simple", "data": {}, **options})

    assert (response.status_code, problem(response)["code"]) == (400, "invalid_request")
    assert [error.replace(":", " ").split()[0] for error in problem(response)["errors"]] == [name]
    assert redis.keys("asynq:*simple*") == []


def test_a_timestamp_without_a_time_zone_is_refused_with_an_example(client: ApiClient) -> None:
    response = add(client, {"queue": "simple", "data": {}, "process_at": "2030-01-01T00:00:00"})

    assert "with its time zone" in problem(response)["errors"][0]


def test_a_second_task_with_the_same_key_is_a_conflict(client: ApiClient, redis: redis_py.Redis) -> None:
    first = add(client, UNIQUE)

    response = add(client, UNIQUE)

    assert json.loads(first.content)["existing"] is False
    assert (response.status_code, problem(response)["code"]) == (409, "task_not_unique")
    assert info(first)["id"] in problem(response)["detail"]
    assert redis.llen(SIMPLE.pending) == 1
    assert len(redis.keys("asynq:t:*")) == 1


def test_a_second_task_with_on_conflict_return_is_the_first_one(client: ApiClient, single_broker: Broker) -> None:
    first = info(add(client, UNIQUE))
    take_one(single_broker, "simple")

    response = add(client, RETURNS)

    assert (response.status_code, json.loads(response.content)["existing"]) == (200, True)
    assert (info(response)["id"], info(response)["state"]) == (first["id"], "active")


def test_other_keys_and_other_queues_do_not_conflict(client: ApiClient) -> None:
    add(client, UNIQUE)

    assert add(client, UNIQUE | {"unique_key": "invoice 8"}).status_code == 200
    assert add(client, UNIQUE | {"queue": "inference_high"}).status_code == 200
    assert add(client, {"queue": "simple", "data": {"n": 1}}).status_code == 200


def test_a_key_with_unique_for_is_free_after_that_time(client: ApiClient, redis: redis_py.Redis) -> None:
    add(client, UNIQUE | {"unique_for": "1m"})

    assert 0 < redis.ttl(SIMPLE.lock("invoice 7")) <= 60


@pytest.mark.parametrize("end", ["succeed", "fail", "cancel", "vanish"])
def test_a_key_is_free_after_every_end(
    client: ApiClient, redis: redis_py.Redis, single_broker: Broker, end: str
) -> None:
    task_id = info(add(client, UNIQUE | {"unique_until": "finished"}))["id"]
    if end == "succeed":
        succeed(single_broker, take_one(single_broker, "simple"), b"1")
    elif end == "fail":
        fail_for_good(single_broker, take_one(single_broker, "simple"), "boom")
    elif end == "cancel":
        single_broker.run(cancel("simple", task_id, now_ns=single_broker.now_ns()))
    else:
        redis.delete(SIMPLE.task(task_id))

    assert add(client, UNIQUE).status_code == 200


def test_a_repeated_request_gets_the_first_response(
    client: ApiClient, redis: redis_py.Redis, single_broker: Broker
) -> None:
    body = b'{"queue":"image","data":{"prompt":"x" },"retention":0}'
    first = add(client, body, **{"Idempotency-Key": "k1"})
    succeed(single_broker, take_one(single_broker, "image"), b"1")
    save_queue(spec=spec("image", is_enabled=False), source=QueueSource.API)

    second = add(client, body, **{"Idempotency-Key": "k1"})

    assert first.status_code == second.status_code == 200
    assert second.content == first.content
    assert (first.get("Idempotent-Replayed"), second["Idempotent-Replayed"]) == (None, "true")
    assert redis.keys("asynq:{image}:t:*") == []


def test_a_repeated_request_with_a_delay_gets_the_first_response(client: ApiClient, redis: redis_py.Redis) -> None:
    body = {"queue": "simple", "data": {}, "delay": "1h"}

    first, second = (add(client, body, **{"Idempotency-Key": "k1"}) for _ in range(2))

    assert (info(first)["state"], second.content) == ("scheduled", first.content)
    assert redis.zcard(SIMPLE.scheduled) == 1
    assert len(redis.keys("asynq:t:*")) == 1


def test_another_request_under_the_same_key_is_refused(client: ApiClient, redis: redis_py.Redis) -> None:
    add(client, {"queue": "simple", "data": {"n": 1}}, **{"Idempotency-Key": "k1"})

    response = add(client, {"queue": "simple", "data": {"n": 2}}, **{"Idempotency-Key": "k1"})

    assert (response.status_code, problem(response)["code"]) == (422, "idempotency_key_reused")
    assert redis.llen(SIMPLE.pending) == 1


def test_the_keys_of_other_clients_are_others(client: ApiClient, redis: redis_py.Redis) -> None:
    stored = [create_api_key(name=name, role=Role.CLIENT, queues=[]) for name in ("shop", "office")]
    clients = [client, ApiClient(ADMIN_KEY), *(ApiClient(key.plain) for key in stored)]

    for each in clients:
        response = add(each, {"queue": "simple", "data": {}}, **{"Idempotency-Key": "k1"})
        assert (response.status_code, response.get("Idempotent-Replayed")) == (200, None)

    assert redis.llen(SIMPLE.pending) == len(clients)


TOO_LATE = msgspec.msgpack.encode(["id", (1 << 64) - 1, b"", *[0] * 5, None, {}])


@pytest.mark.parametrize("is_disabled", [False, True], ids=["enabled", "disabled"])
@pytest.mark.parametrize(
    "damage",
    [
        {"response": b"\xc1"},
        {"response": msgspec.msgpack.encode(["id", 1])},
        {"response": msgspec.msgpack.encode({"id": "id"})},
        {"response": TOO_LATE},
        {"response": None},
        {"fingerprint": None},
        {"holder": b"\xff"},
        {},
    ],
    ids=str,
)
def test_a_damaged_record_of_a_key_creates_nothing_and_says_so(
    client: ApiClient, redis: redis_py.Redis, damage: dict[str, bytes | None], is_disabled: bool
) -> None:
    add(client, {"queue": "simple", "data": {}}, **{"Idempotency-Key": "k1"})
    (record,) = redis.keys(SIMPLE.created("*"))
    for name, value in damage.items():
        redis.hdel(record, name) if value is None else redis.hset(record, name, value)
    if not damage:
        redis.set(record, "a key of another type")
    if is_disabled:  # the record is read by another request
        save_queue(spec=spec("simple", is_enabled=False), source=QueueSource.API)

    response = add(client, {"queue": "simple", "data": {}}, **{"Idempotency-Key": "k1"})

    assert (response.status_code, problem(response)["code"]) == (409, "idempotency_record_unreadable")
    assert redis.llen(SIMPLE.pending) == 1


def test_keys_are_scoped_to_the_sender_and_the_queue(client: ApiClient) -> None:
    other = ApiClient(create_api_key(name="other", role=Role.CLIENT, queues=[]).plain)
    body = {"queue": "simple", "data": {}}
    responses = [
        add(client, body, **{"Idempotency-Key": "k1"}),
        add(other, body, **{"Idempotency-Key": "k1"}),
        add(client, body | {"queue": "inference_low"}, **{"Idempotency-Key": "k1"}),
    ]

    assert len({info(response)["id"] for response in responses}) == 3


def test_a_request_that_was_refused_can_be_sent_again(client: ApiClient, single_broker: Broker) -> None:
    add(client, UNIQUE)
    refused = add(client, UNIQUE, **{"Idempotency-Key": "k1"})
    succeed(single_broker, take_one(single_broker, "simple"), b"1")

    again = add(client, UNIQUE, **{"Idempotency-Key": "k1"})

    assert (refused.status_code, again.status_code) == (409, 200)
    assert again.get("Idempotent-Replayed") is None


def test_a_repeated_request_that_found_a_task_finds_the_same_one(client: ApiClient, single_broker: Broker) -> None:
    first = info(add(client, UNIQUE))
    add(client, RETURNS, **{"Idempotency-Key": "k1"})
    succeed(single_broker, take_one(single_broker, "simple"), b"1")

    again = add(client, RETURNS, **{"Idempotency-Key": "k1"})

    assert (info(again)["id"], info(again)["state"]) == (first["id"], "completed")
    assert json.loads(again.content)["existing"] is True


@pytest.mark.parametrize("key", ["", "a b", "\x7f", "x" * 256])
def test_an_invalid_idempotency_key_is_refused(client: ApiClient, key: str) -> None:
    response = add(client, {"queue": "simple", "data": {}}, **{"Idempotency-Key": key})

    assert response.status_code == 400
    assert problem(response)["errors"][0].startswith("Idempotency-Key: ")


def test_fifty_concurrent_requests_create_one_task(client: ApiClient, redis: redis_py.Redis) -> None:
    def send(_: int) -> bytes:
        response = add(client, {"queue": "simple", "data": {"n": 1}}, **{"Idempotency-Key": "k1"})
        content: bytes = response.content
        return content

    with ThreadPoolExecutor(10) as pool:
        responses = set(pool.map(send, range(50)))

    assert len({json.loads(response)["info"]["id"] for response in responses}) == 1
    assert redis.llen(SIMPLE.pending) == 1


@pytest.fixture
def waiters(each_plane: str, monkeypatch: pytest.MonkeyPatch) -> ResultWaiters:
    """Return the process's waiters. One key may have three."""
    found = get_waiting_loop().waiters
    monkeypatch.setattr(found, "limits", WaiterLimits(total=6, threads=3))
    return found


@pytest.mark.parametrize("options", [{}, {"retention": 0}])
def test_a_client_that_waits_gets_the_result(
    client: ApiClient, single_broker: Broker, waiters: ResultWaiters, options: dict[str, int]
) -> None:
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(add, client, {"queue": "simple", "data": {}, **options}, Prefer="wait=120")
        wait_until(lambda: waiters.active)
        succeed(single_broker, take_one(single_broker, "simple"), b'{"ok":true}')
        response = sent.result(timeout=PATIENCE_S)

    assert (response.status_code, response["Preference-Applied"]) == (200, "wait=120")
    assert (info(response)["state"], info(response)["result"]) == ("completed", {"ok": True})


def test_a_client_whose_wait_is_over_gets_the_location(client: ApiClient, waiters: ResultWaiters) -> None:
    response = add(client, {"queue": "simple", "data": {}}, Prefer="wait=1")

    assert (response.status_code, response["Preference-Applied"]) == (202, "wait=1")
    assert response["Location"] == f"/queue/{info(response)['id']}"
    read = client.get(response["Location"], Prefer="wait=1")
    assert (read.status_code, read["Location"], read["Preference-Applied"]) == (202, response["Location"], "wait=1")


def test_a_task_is_enqueued_although_no_client_may_wait(
    client: ApiClient, redis: redis_py.Redis, waiters: ResultWaiters
) -> None:
    waiters.limits = WaiterLimits(total=0, threads=0)

    response = add(client, {"queue": "simple", "data": {}}, Prefer="wait=120")

    assert (response.status_code, response.get("Preference-Applied")) == (202, None)
    assert redis.lrange(SIMPLE.pending, 0, -1) == [info(response)["id"].encode()]


def test_a_repetition_that_waits_gets_the_result_of_the_first(client: ApiClient, single_broker: Broker) -> None:
    body = {"queue": "simple", "data": {}}
    add(client, body, **{"Idempotency-Key": "k1"})
    succeed(single_broker, take_one(single_broker, "simple"), b"1")

    response = add(client, body, **{"Idempotency-Key": "k1", "Prefer": "wait=120"})

    assert (response.status_code, info(response)["result"], response["Idempotent-Replayed"]) == (200, 1, "true")


@pytest.mark.parametrize("wait", ["soon", "-1", ""])
def test_an_invalid_wait_enqueues_nothing(client: ApiClient, redis: redis_py.Redis, wait: str) -> None:
    response = client.post(f"/queue/add?wait={wait}", {"queue": "simple", "data": {}})

    assert problem(response)["errors"][0].startswith("wait: ")
    assert not redis.exists(SIMPLE.pending)
