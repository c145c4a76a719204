"""What is told about limits is what is applied."""

import json
from typing import Any

import pytest
from rest_framework.serializers import Serializer

from runqy.accounts.operations import create_api_key
from runqy.broker.rates import Rate
from runqy.server_limits import LimitsSerializer
from tests.api.client import ApiClient, problem
from tests.support.environment import CLIENT_KEY, WORKER_KEY


def limits(key: str = CLIENT_KEY) -> dict[str, Any]:
    """Return what a key is told."""
    answer = ApiClient(key).get("/api/limits")
    assert answer.status_code == 200
    told: dict[str, Any] = json.loads(answer.content)
    return told


def test_the_schema_names_each_limit(client: ApiClient) -> None:
    output: Serializer[Any] = LimitsSerializer()

    assert list(limits()) == list(output.fields)


def test_every_role_may_know_and_nobody_else(client: ApiClient) -> None:
    assert limits(WORKER_KEY) == limits()
    assert problem(ApiClient(None).get("/api/limits"))["code"] == "unauthorized"
    assert problem(ApiClient().post("/api/limits"))["code"] == "method_not_allowed"


def test_the_settings_of_the_server_are_told(client: ApiClient, settings: Any) -> None:
    settings.RUNQY_RATE_LIMIT, settings.RUNQY_AUTH_FAILURE_LIMIT = Rate(600, 60), None
    settings.RUNQY_MAX_BODY_SIZE, settings.RUNQY_MAX_WAITERS = 1000, 7

    told = limits()

    assert (told["rate_limit"], told["auth_failure_limit"]) == ({"most": 600, "window_s": 60}, None)
    assert (told["body_bytes"], told["waiters"], told["waiters_per_key"]) == (1000, 7, 4)


def test_a_key_with_a_rate_of_its_own_is_told_that(client: ApiClient, settings: Any) -> None:
    settings.RUNQY_RATE_LIMIT = Rate(600, 60)
    key = create_api_key(name="x", role="client", rate_limit="5/h").plain

    assert limits(key)["rate_limit"] == {"most": 5, "window_s": 3600}


@pytest.mark.parametrize(
    ("name", "option", "unit"),
    [
        ("timeout_s", "timeout", 1),
        ("delay_s", "delay", 1),
        ("retention_s", "retention", 1),
        ("max_retry", "max_retry", 1),
        ("unique_key_length", "unique_key", "k"),
    ],
)
def test_as_much_as_is_told_is_taken_and_no_more(client: ApiClient, name: str, option: str, unit: Any) -> None:
    most = limits()[name]

    taken = client.post("/queue/add", {"queue": "simple", "data": {}, option: unit * most})
    refused = client.post("/queue/add", {"queue": "simple", "data": {}, option: unit * (most + 1)})

    assert taken.status_code == 200, taken.content
    assert any(error.startswith(f"{option}:") for error in problem(refused)["errors"])


def test_a_batch_of_one_more_is_refused_with_the_number(client: ApiClient) -> None:
    most = limits()["batch_tasks"]

    refused = client.post("/queue/add-batch", {"queue": "simple", "jobs": [{}] * (most + 1)})

    assert str(most) in problem(refused)["detail"]


def test_a_body_of_one_byte_more_is_refused_with_the_number(client: ApiClient, settings: Any) -> None:
    settings.RUNQY_MAX_BODY_SIZE = 100
    most = limits()["body_bytes"]

    assert problem(client.post("/queue/add", b" " * most))["code"] == "invalid_request"
    assert str(most) in problem(client.post("/queue/add", b" " * (most + 1)))["detail"]
