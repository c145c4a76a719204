"""Errors of every origin have one form; keys are read from both headers; health, schema and Swagger are public."""

import json
from typing import Any

import msgspec
import pytest
from django.core.management import call_command
from django.db import OperationalError

from runqy.api.renderers import JSONRenderer
from runqy.broker.connection import RedisTarget
from runqy.publication.snapshot import get_snapshot
from tests.api.client import ApiClient, problem
from tests.api.wsgi import call
from tests.support.environment import ADMIN_KEY
from tests.support.servers import free_port

pytestmark = pytest.mark.usefixtures("configuration")


def test_a_path_that_nothing_is_at_is_a_problem() -> None:
    answer = ApiClient().get("/nowhere")

    assert (answer.status_code, problem(answer)["code"]) == (404, "not_found")


def test_a_method_that_a_path_does_not_take_is_a_problem() -> None:
    answer = ApiClient().get("/worker/register")

    assert (answer.status_code, problem(answer)["code"]) == (405, "method_not_allowed")
    assert "POST" in answer["Allow"]


def test_a_bug_is_a_problem_that_says_nothing_about_itself(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr("runqy.accounts.api.viewsets.get_api_key", fail)

    answer = ApiClient().get("/api/keys/1")

    assert (answer.status_code, problem(answer)["code"]) == (500, "internal")
    assert b"secret detail" not in answer.content
    assert "secret detail" in caplog.text


def test_a_database_that_is_away_is_unavailable_and_no_error_of_ours(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OperationalError

    monkeypatch.setattr("runqy.accounts.api.viewsets.get_api_key", fail)

    answer = ApiClient().get("/api/keys/1")

    assert (answer.status_code, problem(answer)["code"]) == (503, "database_unavailable")
    assert answer["Retry-After"]
    assert [record for record in caplog.records if record.name == "django.request"] == []


def test_a_redis_that_is_away_is_unavailable_and_no_bug(settings: Any) -> None:
    get_snapshot()
    settings.REDIS_TARGET = RedisTarget(addresses=(("127.0.0.1", free_port()),))

    answers = [
        ApiClient().post("/queue/add", {"queue": "q", "data": {}}),
        ApiClient().get("/queue/x"),
        ApiClient().get("/queue/x?wait=1"),
    ]

    # An unknown queue is still known to be unknown.
    assert [problem(answer)["code"] for answer in answers] == ["queue_not_found", *["broker_unavailable"] * 2]
    assert all(answer["Retry-After"] for answer in answers[1:])


def test_answers_are_of_known_length() -> None:
    answer = ApiClient().get("/queue/x")

    assert int(answer["Content-Length"]) == len(answer.content)


@pytest.mark.parametrize(
    "headers",
    [
        {"HTTP_AUTHORIZATION": f"Bearer {ADMIN_KEY}"},
        {"HTTP_AUTHORIZATION": f"bearer   {ADMIN_KEY} "},
        {"HTTP_AUTHORIZATION": "", "HTTP_X_API_KEY": ADMIN_KEY},
        {"HTTP_AUTHORIZATION": "Basic eDp5", "HTTP_X_API_KEY": ADMIN_KEY},
    ],
)
def test_a_key_is_taken_from_either_header(headers: dict[str, str]) -> None:
    assert call("GET", "/queue/x", **headers).status == 404


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Bearer wrong", f"Basic {ADMIN_KEY}", ADMIN_KEY, "Bearer \xe9"]
)
def test_whoever_has_no_valid_key_is_asked_for_one(header: str) -> None:
    answer = call("GET", "/queue/x", HTTP_AUTHORIZATION=header)

    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_health_is_public_and_says_that_redis_answers() -> None:
    answer = ApiClient(None).get("/health")

    assert answer.status_code == 200
    assert json.loads(answer.content) == {"status": "ok", "redis": "ok", "warnings": []}


def test_health_tells_when_redis_is_away(settings: Any) -> None:
    settings.REDIS_TARGET = RedisTarget(addresses=(("127.0.0.1", free_port()),))

    answer = ApiClient(None).get("/health")

    assert (answer.status_code, problem(answer)["code"]) == (503, "broker_unavailable")
    assert answer.has_header("Retry-After")
    assert str(settings.REDIS_TARGET.addresses[0][1]) not in answer.content.decode()


def test_health_warns_of_a_redis_that_throws_tasks_away(redis: Any) -> None:
    redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        answer = ApiClient(None).get("/health")
    finally:
        redis.config_set("maxmemory-policy", "noeviction")

    assert answer.status_code == 200
    assert "allkeys-lru" in json.loads(answer.content)["warnings"][0]


def test_swagger_is_public_and_loads_nothing_from_elsewhere() -> None:
    page = ApiClient(None).get("/swagger/index.html").content.decode()

    assert "swagger-ui" in page
    assert "://" not in page.replace("http://www.w3.org", "")
    assert "<script>" not in page


def test_the_swagger_page_finds_its_own_files() -> None:
    assert call("GET", "/static/drf_spectacular_sidecar/swagger-ui-dist/swagger-ui-bundle.js").status == 200


def test_the_schema_describes_every_route_with_its_problems() -> None:
    answer = ApiClient(None).get("/api/schema/", Accept="application/json")

    schema = json.loads(answer.content)
    assert schema["openapi"].startswith("3.1")
    assert schema["paths"].keys() >= {"/queue/add", "/queue/{task_id}", "/worker/register", "/health"}
    responses = schema["paths"]["/queue/add"]["post"]["responses"]
    assert responses.keys() >= {"200", "400", "401", "403", "404", "409", "413", "503"}
    assert "application/problem+json" in responses["404"]["content"]


def test_the_schema_is_valid_openapi_without_a_doubt(capsys: pytest.CaptureFixture[str]) -> None:
    call_command("spectacular", "--validate", "--fail-on-warn")

    assert "openapi: 3.1" in capsys.readouterr().out


def test_raw_values_are_rendered_byte_for_byte() -> None:
    raw = msgspec.Raw(b'{"b":1.0e2, "a":9007199254740993}')

    assert JSONRenderer().render({"result": raw}) == b'{"result":' + bytes(raw) + b"}"
