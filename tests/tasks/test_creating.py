"""POST /queue/add with options, a unique key, an idempotency key, and waiting for the result."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis as redis_py

from queues.models import Source
from queues.operations import save_queue
from runqy.accounts.identity import Role
from runqy.accounts.operations import create_api_key
from runqy.broker.asynq_pb2 import TaskMessage
from runqy.broker.broker import Broker
from runqy.broker.cancelling import cancel
from runqy.broker.keys import QueueKeys
from tasks.waiting import ResultWaiters, WaiterLimits
from tasks.waiting_loop import get_waiting_loop
from tests.api.client import Answer, ApiClient, problem
from tests.queues.samples import spec
from tests.support.tasks import take_one
from tests.support.waiting import wait_until
from tests.tasks.life import fail_for_good, succeed

SIMPLE = QueueKeys("simple")
UNIQUE = {"queue": "simple", "data": {"n": 1}, "unique_key": "invoice 7"}
RETURNS = UNIQUE | {"on_conflict": "return"}


def add(client: ApiClient, body: Any, **headers: str) -> Answer:
    """Put a task on a queue."""
    return client.post("/queue/add", body, **headers)


def info(answer: Answer) -> dict[str, Any]:
    """Return what an answer says about its task."""
    assert answer.status_code in (200, 202), answer.content
    found: dict[str, Any] = json.loads(answer.content)["info"]
    return found


def message(redis: redis_py.Redis, task_id: str) -> TaskMessage:
    """Return the message of a task as it stands in Redis."""
    return TaskMessage.FromString(redis.hget(SIMPLE.task(task_id), "msg"))


def test_options_stand_in_the_message(client: ApiClient, redis: redis_py.Redis) -> None:
    options = {"process_at": "2099-12-31T23:59:59.2+02:00", "deadline": "2100-01-01T00:00:00Z", "retention": 0}

    found = info(add(client, {"queue": "simple", "data": {}, "timeout": 5, "max_retry": 1, **options}))

    stored = message(redis, found["id"])
    assert (stored.deadline, stored.retention, stored.timeout, stored.retry) == (4_102_444_800, 0, 5, 1)
    assert redis.zscore(SIMPLE.scheduled, found["id"]) == 4_102_437_600
    assert (found["deadline"], found["next_process_at"]) == ("2100-01-01T00:00:00Z", "2099-12-31T22:00:00Z")


def test_a_time_in_the_past_is_at_once(client: ApiClient) -> None:
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
        ({"retention": "1h"}, "retention"),
        ({"unique_key": ""}, "unique_key"),
        ({"unique_key": "x" * 257}, "unique_key"),
        ({"unique_key": 7}, "unique_key"),
        ({"unique_key": "u", "unique_for": 0}, "unique_for"),
        ({"unique_key": "u", "unique_for": 1.5}, "unique_for"),
        ({"unique_key": "u", "unique_until": "started"}, "unique_until"),
        ({"unique_key": "u", "unique_until": "finished", "unique_for": 5}, "unique_for"),
        ({"unique_key": "u", "on_conflict": "replace"}, "on_conflict"),
        ({"unique_for": 5}, "unique_for"),
        ({"on_conflict": "return"}, "on_conflict"),
    ],
)
def test_what_is_wrong_is_refused_by_name(
    client: ApiClient, redis: redis_py.Redis, options: dict[str, Any], name: str
) -> None:
    answer = add(client, {"queue": "simple", "data": {}, **options})

    assert (answer.status_code, problem(answer)["code"]) == (400, "invalid_request")
    assert [error.replace(":", " ").split()[0] for error in problem(answer)["errors"]] == [name]
    assert redis.keys("asynq:*simple*") == []


def test_a_moment_without_a_time_zone_is_told_that_it_needs_one(client: ApiClient) -> None:
    answer = add(client, {"queue": "simple", "data": {}, "process_at": "2030-01-01T00:00:00"})

    assert "with its time zone" in problem(answer)["errors"][0]


def test_a_second_task_with_the_same_key_is_a_conflict(client: ApiClient, redis: redis_py.Redis) -> None:
    first = add(client, UNIQUE)

    answer = add(client, UNIQUE)

    assert json.loads(first.content)["existing"] is False
    assert (answer.status_code, problem(answer)["code"]) == (409, "task_not_unique")
    assert info(first)["id"] in problem(answer)["detail"]
    assert redis.llen(SIMPLE.pending) == 1
    assert len(redis.keys("asynq:t:*")) == 1


def test_a_second_task_can_be_the_first_one(client: ApiClient, single_broker: Broker) -> None:
    first = info(add(client, UNIQUE))
    take_one(single_broker, "simple")

    answer = add(client, RETURNS)

    assert (answer.status_code, json.loads(answer.content)["existing"]) == (200, True)
    assert (info(answer)["id"], info(answer)["state"]) == (first["id"], "active")


def test_other_keys_and_other_queues_are_others(client: ApiClient) -> None:
    add(client, UNIQUE)

    assert add(client, UNIQUE | {"unique_key": "invoice 8"}).status_code == 200
    assert add(client, UNIQUE | {"queue": "inference_high"}).status_code == 200
    assert add(client, {"queue": "simple", "data": {"n": 1}}).status_code == 200


def test_a_key_for_a_time_is_free_after_it(client: ApiClient, redis: redis_py.Redis) -> None:
    add(client, UNIQUE | {"unique_for": 60})

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


def test_a_repeated_request_gets_the_first_answer(
    client: ApiClient, redis: redis_py.Redis, single_broker: Broker
) -> None:
    body = b'{"queue":"image","data":{"prompt":"x" },"retention":0}'
    first = add(client, body, **{"Idempotency-Key": "k1"})
    succeed(single_broker, take_one(single_broker, "image"), b"1")
    save_queue(spec=spec("image", is_enabled=False), source=Source.API)

    second = add(client, body, **{"Idempotency-Key": "k1"})

    assert first.status_code == second.status_code == 200
    assert second.content == first.content
    assert (first.get("Idempotent-Replayed"), second["Idempotent-Replayed"]) == (None, "true")
    assert redis.keys("asynq:{image}:t:*") == []


def test_a_repeated_request_for_later_gets_the_first_answer(client: ApiClient, redis: redis_py.Redis) -> None:
    body = {"queue": "simple", "data": {}, "delay": "1h"}

    first, second = (add(client, body, **{"Idempotency-Key": "k1"}) for _ in range(2))

    assert (info(first)["state"], second.content) == ("scheduled", first.content)
    assert redis.zcard(SIMPLE.scheduled) == 1
    assert len(redis.keys("asynq:t:*")) == 1


def test_another_request_under_the_same_key_is_refused(client: ApiClient, redis: redis_py.Redis) -> None:
    add(client, {"queue": "simple", "data": {"n": 1}}, **{"Idempotency-Key": "k1"})

    answer = add(client, {"queue": "simple", "data": {"n": 2}}, **{"Idempotency-Key": "k1"})

    assert (answer.status_code, problem(answer)["code"]) == (422, "idempotency_key_reused")
    assert redis.llen(SIMPLE.pending) == 1


def test_the_same_key_of_another_sender_or_for_another_queue_is_another(client: ApiClient) -> None:
    other = ApiClient(create_api_key(name="other", role=Role.CLIENT, queues=[]).plain)
    body = {"queue": "simple", "data": {}}
    answers = [
        add(client, body, **{"Idempotency-Key": "k1"}),
        add(other, body, **{"Idempotency-Key": "k1"}),
        add(client, body | {"queue": "inference_low"}, **{"Idempotency-Key": "k1"}),
    ]

    assert len({info(answer)["id"] for answer in answers}) == 3


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
def test_a_key_that_is_none_is_refused(client: ApiClient, key: str) -> None:
    answer = add(client, {"queue": "simple", "data": {}}, **{"Idempotency-Key": key})

    assert answer.status_code == 400
    assert problem(answer)["errors"][0].startswith("Idempotency-Key: ")


def test_fifty_at_once_make_one_task(client: ApiClient, redis: redis_py.Redis) -> None:
    def send(_: int) -> bytes:
        answer = add(client, {"queue": "simple", "data": {"n": 1}}, **{"Idempotency-Key": "k1"})
        content: bytes = answer.content
        return content

    with ThreadPoolExecutor(10) as pool:
        answers = set(pool.map(send, range(50)))

    assert len({json.loads(answer)["info"]["id"] for answer in answers}) == 1
    assert redis.llen(SIMPLE.pending) == 1


@pytest.fixture
def waiters(each_plane: str, monkeypatch: pytest.MonkeyPatch) -> ResultWaiters:
    """Return the process's waiters, of which one key may have three."""
    found = get_waiting_loop().waiters
    monkeypatch.setattr(found, "limits", WaiterLimits(total=6, threads=3))
    return found


@pytest.mark.parametrize("options", [{}, {"retention": 0}])
def test_whoever_waits_gets_the_result(
    client: ApiClient, single_broker: Broker, waiters: ResultWaiters, options: dict[str, int]
) -> None:
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(add, client, {"queue": "simple", "data": {}, **options}, Prefer="wait=30")
        wait_until(lambda: waiters.active)
        succeed(single_broker, take_one(single_broker, "simple"), b'{"ok":true}')
        answer = sent.result(timeout=10)

    assert (answer.status_code, answer["Preference-Applied"]) == (200, "wait=30")
    assert (info(answer)["state"], info(answer)["result"]) == ("completed", {"ok": True})


def test_whoever_waited_long_enough_is_told_where_to_look(client: ApiClient, waiters: ResultWaiters) -> None:
    answer = add(client, {"queue": "simple", "data": {}}, Prefer="wait=1")

    assert (answer.status_code, answer["Preference-Applied"]) == (202, "wait=1")
    assert answer["Location"] == f"/queue/{info(answer)['id']}"
    read = client.get(answer["Location"], Prefer="wait=1")
    assert (read.status_code, read["Location"], read["Preference-Applied"]) == (202, answer["Location"], "wait=1")


def test_a_task_is_queued_though_nobody_may_wait(
    client: ApiClient, redis: redis_py.Redis, waiters: ResultWaiters
) -> None:
    waiters.limits = WaiterLimits(total=0, threads=0)

    answer = add(client, {"queue": "simple", "data": {}}, Prefer="wait=30")

    assert (answer.status_code, answer.get("Preference-Applied")) == (202, None)
    assert redis.lrange(SIMPLE.pending, 0, -1) == [info(answer)["id"].encode()]


def test_a_repetition_that_waits_gets_the_result_of_the_first(client: ApiClient, single_broker: Broker) -> None:
    body = {"queue": "simple", "data": {}}
    add(client, body, **{"Idempotency-Key": "k1"})
    succeed(single_broker, take_one(single_broker, "simple"), b"1")

    answer = add(client, body, **{"Idempotency-Key": "k1", "Prefer": "wait=30"})

    assert (answer.status_code, info(answer)["result"], answer["Idempotent-Replayed"]) == (200, 1, "true")


@pytest.mark.parametrize("wait", ["soon", "-1", ""])
def test_a_wait_that_is_no_time_queues_nothing(client: ApiClient, redis: redis_py.Redis, wait: str) -> None:
    answer = client.post(f"/queue/add?wait={wait}", {"queue": "simple", "data": {}})

    assert problem(answer)["errors"][0].startswith("wait: ")
    assert not redis.exists(SIMPLE.pending)
