"""POST /queue/add: what becomes of a body, and what is refused."""

import json
from typing import Any

import pytest
import redis as redis_py

from queues.models import QueueSource
from queues.operations import save_queue
from runqy.broker.asynq_pb2 import TaskMessage
from runqy.broker.keys import QueueKeys
from tests.api.client import ApiClient, problem
from tests.configuration.support import elsewhere
from tests.queues.samples import spec
from tests.support.environment import ADMIN_KEY, WORKER_KEY


def stored(redis: redis_py.Redis, queue: str, task_id: str) -> TaskMessage:
    """Return the stored message of a task."""
    return TaskMessage.FromString(redis.hget(QueueKeys(queue).task(task_id), "msg"))


def added(client: ApiClient, body: Any) -> dict[str, Any]:
    """Enqueue a task and return its response."""
    response = client.post("/queue/add", body)
    assert response.status_code == 200, response.content
    info: dict[str, Any] = json.loads(response.content)["info"]
    return info


def test_a_task_is_pending_on_its_redis_queue(client: ApiClient, redis: redis_py.Redis) -> None:
    info = added(client, {"queue": "inference_high", "timeout": 300, "data": {"prompt": "Hello world"}})

    assert (info["queue"], info["state"], info["timeout"]) == ("inference_high", "pending", "5m0s")
    assert redis.lrange(QueueKeys("inference_high").pending, 0, -1) == [info["id"].encode()]
    message = stored(redis, "inference_high", info["id"])
    assert (message.type, message.timeout, message.retry) == ("inference_high", 300, 3)
    assert message.retention == 24 * 3600


def test_the_response_has_every_member_that_clients_read(client: ApiClient) -> None:
    info = added(client, {"queue": "simple", "data": {"n": 1}})

    read_by_clients = {"id", "type", "queue", "state", "payload", "max_retry", "retried", "last_err", "timeout"}
    read_by_clients |= {"deadline", "next_process_at", "completed_at", "result"}
    assert read_by_clients <= info.keys()
    assert (info["payload"], info["result"], info["last_err"], info["retried"]) == ({"n": 1}, None, "", 0)


@pytest.mark.parametrize("data", ['[1, {"a": 2}]', '"text"', "42", "1.50", "true", "null"])
def test_any_json_is_a_payload_of_a_queue_without_a_schema(client: ApiClient, redis: redis_py.Redis, data: str) -> None:
    info = added(client, b'{"queue":"simple","data":%s}' % data.encode())

    assert info["payload"] == json.loads(data)
    assert stored(redis, "simple", info["id"]).payload == data.encode()


@pytest.mark.parametrize("data", [[1], "text", 42, None])
def test_a_payload_of_a_queue_with_a_schema_must_be_an_object(client: ApiClient, data: Any) -> None:
    response = client.post("/queue/add", {"queue": "optional", "data": data})

    assert (response.status_code, problem(response)["code"]) == (400, "payload_invalid")
    assert problem(response)["errors"] == ["data: Must be an object, because the queue has a payload schema."]


@pytest.mark.parametrize("name", ["inference.high", "inference_high"])
def test_both_spellings_of_a_sub_queue_are_accepted(client: ApiClient, name: str) -> None:
    assert added(client, {"queue": name, "data": {}})["queue"] == "inference_high"


@pytest.mark.parametrize(
    "sent",
    [
        b'{"n":9007199254740993,"f":1.10,"e":1E400,"z":-0.0}',
        b'{ "b" : [1,  2] , "a":{"y":1,"x":2} }',
        '{"text":"ü \\u00fc \\/ \U0001f600"}'.encode(),
        b'{"a":1,"a":2}',
        b"{}",
    ],
)
def test_the_payload_keeps_its_bytes(client: ApiClient, redis: redis_py.Redis, sent: bytes) -> None:
    info = added(client, b'{"queue":"simple","data": ' + sent + b" }")

    assert stored(redis, "simple", info["id"]).payload == sent


def test_line_breaks_between_tokens_become_spaces(client: ApiClient, redis: redis_py.Redis) -> None:
    info = added(client, b'{"queue":"simple",\r\n"data":{\r\n  "a": "x\\ny",\n  "b": 2\n}}')

    assert stored(redis, "simple", info["id"]).payload == b'{    "a": "x\\ny",   "b": 2 }'


def test_without_data_all_members_but_the_options_are_the_payload(client: ApiClient, redis: redis_py.Redis) -> None:
    body = b'{"prompt":"x","queue":"simple","big":9007199254740993,"timeout":5,"delay":0,"max_retry":1,"z": [1, 2]}'

    info = added(client, body)

    assert stored(redis, "simple", info["id"]).payload == b'{"prompt":"x","big":9007199254740993,"z":[1, 2]}'
    assert (info["timeout"], info["max_retry"]) == ("5s", 1)


def test_the_content_type_does_not_matter(client: ApiClient) -> None:
    response = client.post(
        "/queue/add", b'{"queue":"simple","data":{}}', content_type="application/x-www-form-urlencoded"
    )

    assert response.status_code == 200


def test_missing_defaults_of_the_schema_are_appended(client: ApiClient, redis: redis_py.Redis) -> None:
    info = added(client, b'{"queue":"image","data":{"prompt":"a cat","width": 3.0 }}')

    payload = stored(redis, "image", info["id"]).payload
    assert payload == b'{"prompt":"a cat","width": 3.0 ,"style":"plain"}'


def test_defaults_alone_make_a_payload(client: ApiClient, redis: redis_py.Redis) -> None:
    info = added(client, b'{"queue":"optional","data":{ }}')

    assert json.loads(stored(redis, "optional", info["id"]).payload) == {"width": 512, "style": "plain"}


def test_a_payload_that_violates_the_schema_is_refused_by_field(client: ApiClient, redis: redis_py.Redis) -> None:
    response = client.post("/queue/add", {"queue": "image", "data": {"width": "wide"}})

    found = problem(response)
    assert (response.status_code, found["code"]) == (400, "payload_invalid")
    assert [error.split(":")[0] for error in found["errors"]] == ["prompt", "width"]
    assert redis.keys("asynq:{image}*") == []


def test_limits_of_the_queue_are_the_defaults_of_options(client: ApiClient, redis: redis_py.Redis) -> None:
    info = added(client, {"queue": "limited", "data": {}})

    message = stored(redis, "limited", info["id"])
    assert (message.retry, message.timeout, message.retention) == (7, 90, 60)
    assert redis.hget(QueueKeys("limited").task(info["id"]), "ttl_archived") == b"120"


@pytest.mark.parametrize(("delay", "seconds"), [(60, 60), ("1m", 60), (0.5, 0.5), ("1h30m", 5400)])
def test_a_delayed_task_is_scheduled_and_never_early(
    client: ApiClient, redis: redis_py.Redis, delay: Any, seconds: float
) -> None:
    before_s = sum(number / scale for number, scale in zip(redis.time(), (1, 1_000_000), strict=True))

    info = added(client, {"queue": "simple", "delay": delay, "data": {}})

    score = redis.zscore(QueueKeys("simple").scheduled, info["id"])
    assert info["state"] == "scheduled"
    assert before_s + seconds <= score <= redis.time()[0] + seconds + 2
    assert info["next_process_at"] is not None


@pytest.mark.parametrize(
    ("timeout", "shown"),
    [("30s", "30s"), ("5m", "5m0s"), ("1h30m", "1h30m0s"), ("45", "45s"), (1.5, "2s"), ("0s", "30m0s")],
)
def test_a_timeout_is_a_number_of_seconds_or_a_duration(client: ApiClient, timeout: Any, shown: str) -> None:
    assert added(client, {"queue": "simple", "timeout": timeout, "data": {}})["timeout"] == shown


def test_a_timeout_of_null_is_not_set(client: ApiClient) -> None:
    assert added(client, {"queue": "limited", "timeout": None, "data": {}})["timeout"] == "1m30s"
    assert added(client, {"queue": "limited", "timeout": None, "x": 1})["timeout"] == "1m30s"


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({"data": {}}, ["queue"]),
        ({"queue": "", "data": {}}, ["queue"]),
        ({"queue": 3, "data": {}}, ["queue"]),
        ({"queue": "simple", "data": {}, "timeout": "5 minutes"}, ["timeout"]),
        ({"queue": "simple", "data": {}, "timeout": "99999999h"}, ["timeout"]),
        ({"queue": "simple", "data": {}, "timeout": -1}, ["timeout"]),
        ({"queue": "simple", "data": {}, "timeout": True}, ["timeout"]),
        ({"queue": "simple", "data": {}, "timeout": 10**15}, ["timeout"]),
        ({"queue": "simple", "data": {}, "max_retry": -1}, ["max_retry"]),
        ({"queue": "simple", "data": {}, "max_retry": 1.5}, ["max_retry"]),
        ({"queue": "simple", "data": {}, "delay": "soon"}, ["delay"]),
        ({"queue": "simple", "data": {}, "delay": -1}, ["delay"]),
        ({"queue": "simple", "data": {}, "delay": None}, ["delay"]),
        ({"queue": "simple", "data": {}, "delay": 1e300}, ["delay"]),
        ({"queue": "simple", "data": {}, "tiemout": 5}, ["tiemout"]),
        ({"queue": 3, "timeout": "x", "max_retry": []}, ["queue", "timeout", "max_retry"]),
    ],
)
def test_invalid_options_are_refused_by_name(client: ApiClient, body: dict[str, Any], names: list[str]) -> None:
    response = client.post("/queue/add", body)

    found = problem(response)
    assert (response.status_code, found["code"]) == (400, "invalid_request")
    assert [error.split(":")[0] for error in found["errors"]] == names


def test_a_queue_that_another_process_has_just_saved_accepts_tasks(client: ApiClient) -> None:
    with elsewhere():
        save_queue(spec=spec("new", "high:9"), source=QueueSource.API)

    assert added(client, {"queue": "new.high", "data": {}})["queue"] == "new_high"
    with elsewhere():
        save_queue(spec=spec("newer"), source=QueueSource.API)
    assert client.post("/queue/add-batch", {"queue": "newer", "jobs": [{}]}).status_code == 200
    with elsewhere():
        save_queue(spec=spec("newest"), source=QueueSource.API)
    assert ApiClient(ADMIN_KEY).get("/api/cli/queues/newest").status_code == 200


def test_an_unknown_queue_is_not_found_and_valid_names_are_listed(client: ApiClient) -> None:
    response = client.post("/queue/add", {"queue": "inference", "data": {}})

    found = problem(response)
    assert (response.status_code, found["code"]) == (404, "queue_not_found")
    assert "inference_high" in found["detail"]


def test_a_disabled_queue_is_a_conflict(client: ApiClient) -> None:
    response = client.post("/queue/add", {"queue": "off", "data": {}})

    assert (response.status_code, problem(response)["code"]) == (409, "queue_disabled")


def test_a_workers_key_may_not_enqueue(client: ApiClient) -> None:
    response = ApiClient(WORKER_KEY).post("/queue/add", {"queue": "simple", "data": {}})

    assert (response.status_code, problem(response)["code"]) == (403, "forbidden")


def test_a_request_without_a_key_is_refused_before_its_body_is_read(client: ApiClient) -> None:
    response = ApiClient(None).post("/queue/add", b"not even JSON")

    assert response.status_code == 401
    assert response["WWW-Authenticate"].startswith("Bearer")
    assert problem(response)["code"] == "unauthorized"


@pytest.mark.parametrize("time", ["9999-12-31T00:00:00Z", "9999-12-30T23:59:59.5-12:00", "1970-01-01T00:00:00Z"])
def test_a_time_outside_of_what_can_be_stored_is_refused(client: ApiClient, time: str) -> None:
    response = client.post("/queue/add", {"queue": "simple", "data": {}, "process_at": time})

    assert problem(response)["errors"] == [
        "process_at: Must be a timestamp after 1970 and before the last day of 9999."
    ]


def test_the_last_time_that_can_be_stored_is_repeated(client: ApiClient) -> None:
    body = {"queue": "simple", "data": {}, "process_at": "9999-12-30T23:59:59.5Z"}
    first = client.post("/queue/add", body, **{"Idempotency-Key": "k"})

    again = client.post("/queue/add", body, **{"Idempotency-Key": "k"})

    assert (first.status_code, again.status_code) == (200, 200)
    assert again.content == first.content


@pytest.mark.parametrize("number", ["9" * 4301, "-" + "9" * 4301, '[1,{"a":' + "1" * 100_000 + "}]"])
def test_an_integer_that_python_does_not_decode_is_refused(client: ApiClient, number: str) -> None:
    response = client.post("/queue/add", b'{"queue":"simple","data":{"n":%s}}' % number.encode())

    assert (response.status_code, problem(response)["code"]) == (400, "payload_invalid")
    assert "4,300 digits" in problem(response)["detail"]


@pytest.mark.parametrize(
    "value",
    [
        "9" * 4300,
        "-" + "9" * 4300,
        "0." + "9" * 10_000,
        "1e" + "0" * 9_000 + "1",
        "1E-" + "0" * 9_000 + "1",
        '"' + "9" * 10_000 + '"',
        '"\\\\\\"' + "9" * 10_000 + '"',
        "[" + "1234567890," * 5_000 + "1]",
    ],
)
def test_long_numbers_that_python_decodes_are_kept(client: ApiClient, value: str) -> None:
    info = added(client, b'{"queue":"simple","data":{"n":%s}}' % value.encode())

    json.loads(value)
    assert info["id"]
