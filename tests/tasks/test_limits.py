"""GET /api/limits returns the limits that are applied."""

import json
from typing import Any

import pytest
from rest_framework.serializers import Serializer

from runqy.accounts.operations import create_api_key
from runqy.core.formats.durations import Rate
from runqy.server.limits import LimitsSerializer
from tests.api.client import ApiClient, problem
from tests.support.environment import CLIENT_KEY, WORKER_KEY


def limits(key: str = CLIENT_KEY) -> dict[str, Any]:
    """Return the limits that a key reads."""
    response = ApiClient(key).get("/api/limits")
    assert response.status_code == 200
    limits_shown: dict[str, Any] = json.loads(response.content)
    return limits_shown


def test_the_schema_names_each_limit(client: ApiClient) -> None:
    output: Serializer[Any] = LimitsSerializer()

    assert list(limits()) == list(output.fields)


def test_every_role_may_read_the_limits_and_no_one_else(client: ApiClient) -> None:
    assert limits(WORKER_KEY) == limits()
    assert problem(ApiClient(None).get("/api/limits"))["code"] == "unauthorized"
    assert problem(ApiClient().post("/api/limits"))["code"] == "method_not_allowed"


def test_the_limits_are_those_of_the_settings(client: ApiClient, settings: Any) -> None:
    settings.RUNQY_RATE_LIMIT, settings.RUNQY_AUTH_FAILURE_LIMIT = Rate(600, 60), None
    settings.RUNQY_MAX_BODY_SIZE, settings.RUNQY_MAX_WAITERS = 1000, 7

    limits_shown = limits()

    assert (limits_shown["rate_limit"], limits_shown["auth_failure_limit"]) == ({"most": 600, "window_s": 60}, None)
    assert (limits_shown["body_bytes"], limits_shown["waiters"], limits_shown["waiters_per_key"]) == (1000, 7, 4)


def test_a_key_with_its_own_rate_reads_that_rate(client: ApiClient, settings: Any) -> None:
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
def test_values_at_the_limits_are_accepted_and_beyond_refused(
    client: ApiClient, name: str, option: str, unit: Any
) -> None:
    most = limits()[name]

    taken = client.post("/queue/add", {"queue": "simple", "data": {}, option: unit * most})
    refused = client.post("/queue/add", {"queue": "simple", "data": {}, option: unit * (most + 1)})

    assert taken.status_code == 200, taken.content
    assert any(error.startswith(f"{option}:") for error in problem(refused)["errors"])


def test_a_batch_beyond_the_limit_is_refused_with_the_limit(client: ApiClient) -> None:
    most = limits()["batch_tasks"]

    refused = client.post("/queue/add-batch", {"queue": "simple", "jobs": [{}] * (most + 1)})

    assert str(most) in problem(refused)["detail"]


def test_a_body_beyond_the_limit_is_refused_with_the_limit(client: ApiClient, settings: Any) -> None:
    settings.RUNQY_MAX_BODY_SIZE = 100
    most = limits()["body_bytes"]

    assert problem(client.post("/queue/add", b" " * most))["code"] == "invalid_request"
    assert str(most) in problem(client.post("/queue/add", b" " * (most + 1)))["detail"]
