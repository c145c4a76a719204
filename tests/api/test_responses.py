"""Errors of every origin have one form; keys are read from both headers; health, schema and Swagger are public."""

import json
import re
from typing import Any

import msgspec
import pytest
from django.core.management import call_command
from django.db import OperationalError

from runqy.api.renderers import JSONRenderer
from runqy.core.environment.connection_urls import RedisTarget
from tests.api.client import ApiClient, problem
from tests.api.wsgi import call
from tests.support.environment import ADMIN_KEY
from tests.support.servers import free_port

pytestmark = pytest.mark.usefixtures("configuration")


def test_an_unknown_path_is_a_problem() -> None:
    response = ApiClient().get("/nowhere")

    assert (response.status_code, problem(response)["code"]) == (404, "not_found")


def test_an_unsupported_method_is_a_problem() -> None:
    response = ApiClient().get("/worker/register")

    assert (response.status_code, problem(response)["code"]) == (405, "method_not_allowed")
    assert "POST" in response["Allow"]


def test_a_bug_is_a_problem_without_details(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr("runqy.accounts.api.viewsets.get_api_key", fail)

    response = ApiClient().get("/api/keys/1")

    assert (response.status_code, problem(response)["code"]) == (500, "internal")
    assert b"secret detail" not in response.content
    assert "secret detail" in caplog.text


def test_an_unavailable_database_is_a_503(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OperationalError

    monkeypatch.setattr("runqy.accounts.api.viewsets.get_api_key", fail)

    response = ApiClient().get("/api/keys/1")

    assert (response.status_code, problem(response)["code"]) == (503, "database_unavailable")
    assert response["Retry-After"]
    assert [record for record in caplog.records if record.name == "django.request"] == []


def test_an_unavailable_redis_is_a_503(redis_away: None, each_plane: str) -> None:
    responses = [
        ApiClient().post("/queue/add", {"queue": "q", "data": {}}),
        ApiClient().get("/queue/x"),
        ApiClient().get("/queue/x?wait=1"),
        ApiClient().get("/queue/x/events"),
        ApiClient().get("/queue/x/stream"),
    ]

    # An unknown queue is still known to be unknown.
    assert [problem(response)["code"] for response in responses] == ["queue_not_found", *["broker_unavailable"] * 4]
    assert all(response["Retry-After"] for response in responses[1:])


def test_responses_have_a_content_length(each_plane: str) -> None:
    response = ApiClient().get("/queue/x")

    assert int(response["Content-Length"]) == len(response.content)


@pytest.mark.parametrize(
    "headers",
    [
        {"HTTP_AUTHORIZATION": f"Bearer {ADMIN_KEY}"},
        {"HTTP_AUTHORIZATION": f"bearer   {ADMIN_KEY} "},
        {"HTTP_AUTHORIZATION": "", "HTTP_X_API_KEY": ADMIN_KEY},
        {"HTTP_AUTHORIZATION": "Basic eDp5", "HTTP_X_API_KEY": ADMIN_KEY},
    ],
)
def test_a_key_is_read_from_either_header(each_plane: str, headers: dict[str, str]) -> None:
    assert call("GET", "/queue/x", **headers).status == 404


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Bearer wrong", f"Basic {ADMIN_KEY}", ADMIN_KEY, "Bearer \xe9"]
)
def test_a_request_without_a_valid_key_is_challenged(each_plane: str, header: str) -> None:
    response = call("GET", "/queue/x", HTTP_AUTHORIZATION=header)

    assert response.status == 401
    assert response.headers["WWW-Authenticate"].startswith("Bearer")


def test_health_is_public_and_reports_redis() -> None:
    response = ApiClient(None).get("/health")

    assert response.status_code == 200
    assert json.loads(response.content) == {"status": "ok", "redis": "ok", "version": "1.0.0", "warnings": []}


def test_health_fails_while_redis_is_unavailable(settings: Any) -> None:
    settings.REDIS_TARGET = RedisTarget(addresses=(("127.0.0.1", free_port()),))

    response = ApiClient(None).get("/health")

    assert (response.status_code, problem(response)["code"]) == (503, "broker_unavailable")
    assert response.has_header("Retry-After")
    assert str(settings.REDIS_TARGET.addresses[0][1]) not in response.content.decode()


def test_health_warns_of_a_redis_that_evicts_keys(redis: Any) -> None:
    redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        response = ApiClient(None).get("/health")
    finally:
        redis.config_set("maxmemory-policy", "noeviction")

    assert response.status_code == 200
    assert "allkeys-lru" in json.loads(response.content)["warnings"][0]


def test_the_start_page_links_to_admin_api_and_health() -> None:
    page = ApiClient(None).get("/").content.decode()

    links = re.findall(r'<a href="([^"]+)"', page)
    assert links == ["/admin/", "/swagger/index.html", "/health"]
    assert [ApiClient(None).get(link).status_code for link in links] == [302, 200, 200]


def test_swagger_is_public_and_loads_nothing_from_other_hosts() -> None:
    page = ApiClient(None).get("/swagger/index.html").content.decode()

    assert "swagger-ui" in page
    assert "://" not in page.replace("http://www.w3.org", "")
    assert "<script>" not in page


def test_the_swagger_page_finds_its_own_files() -> None:
    assert call("GET", "/static/drf_spectacular_sidecar/swagger-ui-dist/swagger-ui-bundle.js").status == 200


def test_the_schema_describes_every_route_with_its_problems() -> None:
    response = ApiClient(None).get("/api/schema/", Accept="application/json")

    schema = json.loads(response.content)
    assert schema["openapi"].startswith("3.1")
    assert schema["paths"].keys() >= {"/queue/add", "/queue/{task_id}", "/worker/register", "/health"}
    responses = schema["paths"]["/queue/add"]["post"]["responses"]
    assert responses.keys() >= {"200", "400", "401", "403", "404", "409", "413", "503"}
    assert "application/problem+json" in responses["404"]["content"]


def test_the_schema_is_valid_openapi_without_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    call_command("spectacular", "--validate", "--fail-on-warn")

    assert "openapi: 3.1" in capsys.readouterr().out


def test_raw_values_are_rendered_byte_for_byte() -> None:
    raw = msgspec.Raw(b'{"b":1.0e2, "a":9007199254740993}')

    assert JSONRenderer().render({"result": raw}) == b'{"result":' + bytes(raw) + b"}"
