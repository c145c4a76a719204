"""Whatever goes wrong at whatever path leaves as a problem, with the id of its request."""

import json
import re
from typing import Any

import pytest
from django.test import Client
from django.urls import get_resolver
from drf_spectacular.generators import SchemaGenerator
from rest_framework import exceptions

from runqy.api.exceptions import exception_handler
from tests.api.wsgi import Answer, call

pytestmark = pytest.mark.usefixtures("configuration")

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY")
SHARED = {"/api/cli/configs/reload": {"GET", "PUT", "DELETE"}}
"""Paths that are also those of something else: here of a queue called reload."""


def problem(answer: Answer) -> dict[str, Any]:
    """Return the problem that an answer is, having looked at its form."""
    assert answer.headers["Content-Type"] == "application/problem+json", answer
    found: dict[str, Any] = json.loads(answer.body)
    assert found.keys() == {"type", "title", "status", "detail", "code", "errors", "request_id"}
    assert found["status"] == answer.status
    assert found["request_id"] == answer.headers["X-Request-ID"]
    return found


def assert_problem(method: str, answer: Answer, status: int, code: str) -> None:
    """Look whether a request was answered with this problem; to HEAD only without its body."""
    assert answer.status == status
    if method == "HEAD":
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.body == b""
    else:
        assert problem(answer)["code"] == code


def operations() -> list[tuple[str, set[str], dict[str, Any]]]:
    """Return each path of the schema with nobody's names in it, its methods, and the operations by them."""
    paths = SchemaGenerator().get_schema(request=None, public=True)["paths"]
    return [
        (re.sub(r"\{\w+\}", "0", path), {method.upper() for method in operations}, operations)
        for path, operations in paths.items()
    ]


def test_a_method_that_is_not_documented_is_refused_with_those_that_are() -> None:
    for path, methods, _ in operations():
        allowed = methods | SHARED.get(path, set())
        allowed |= {"HEAD"} if "GET" in allowed else set()
        for method in set(METHODS) - allowed:
            answer = call(method, path)

            assert_problem(method, answer, 405, "method_not_allowed")
            assert set(answer.headers["Allow"].split(", ")) == allowed, path


def test_every_documented_operation_but_the_public_ones_asks_for_a_key() -> None:
    public = {"/health", "/livez", "/readyz", "/api/schema/", "/swagger/doc.json"}

    for path, methods, documented in operations():
        for method in methods:
            answer = call(method, path, HTTP_AUTHORIZATION="")

            if path in public:
                assert answer.status == 200, path
            else:
                assert (answer.status, problem(answer)["code"]) == (401, "unauthorized"), (method, path)
                assert "401" in documented[method.lower()]["responses"], (method, path)


@pytest.mark.parametrize(
    "path",
    ["//", "/nowhere", "/queue/", "/queue/a/b", "/api/schema", "/admi", "/static/no", "/queue/\xff/", "/\x00"],
)
@pytest.mark.parametrize("method", METHODS)
def test_a_path_that_nothing_is_at_is_a_problem_for_every_method(method: str, path: str) -> None:
    answer = call(method, path)

    if not path.startswith("/static/") or method in ("GET", "HEAD"):
        assert_problem(method, answer, 404, "not_found")


@pytest.mark.parametrize(("path", "to"), [("/", "/swagger/index.html"), ("/admin", "/admin/")])
@pytest.mark.parametrize("method", METHODS)
def test_addresses_that_people_type_lead_on(method: str, path: str, to: str) -> None:
    answer = call(method, path, HTTP_AUTHORIZATION="")

    if method in ("GET", "HEAD"):
        assert (answer.status, answer.headers["Location"]) == (302, to)
    elif method == "OPTIONS":
        assert problem(answer)["code"] == "method_not_allowed"
    else:
        assert (problem(answer)["code"], answer.headers["Allow"]) == ("method_not_allowed", "GET, HEAD")


@pytest.mark.parametrize(
    ("environ", "status", "code"),
    [
        ({"QUERY_STRING": "wait=%ff"}, 400, "invalid_request"),
        ({"QUERY_STRING": "&".join(f"a{i}=1" for i in range(20_000)) + "&wait=1"}, 400, "invalid_request"),
        ({"HTTP_HOST": "a b"}, 404, "task_not_found"),
        ({"HTTP_IF_NONE_MATCH": "nonsense"}, 404, "task_not_found"),
    ],
)
def test_strange_parts_of_a_request_are_problems(environ: dict[str, str], status: int, code: str) -> None:
    answer = call("GET", "/queue/x", **environ)

    assert (answer.status, problem(answer)["code"]) == (status, code)


@pytest.mark.parametrize(
    ("environ", "status", "code"),
    [
        ({"CONTENT_LENGTH": "x"}, 400, "invalid_request"),
        ({"CONTENT_LENGTH": "99999999999"}, 413, "too_large"),
        ({"HTTP_CONTENT_ENCODING": "gzip"}, 415, "unsupported_encoding"),
    ],
)
def test_strange_bodies_are_problems_wherever_one_is_read(environ: dict[str, str], status: int, code: str) -> None:
    paths = [path for path, _, documented in operations() if "requestBody" in documented.get("post", {})]

    assert len(paths) > 5
    for path in paths:
        answer = call("POST", path, b"x", **environ)

        assert (answer.status, problem(answer)["code"]) == (status, code), path


def test_a_host_that_is_not_ours_is_told_the_setting(settings: Any) -> None:
    settings.SECURE_SSL_REDIRECT = True  # what asks for the host

    answer = Client().get("/queue/x", headers={"host": "other.example"})
    page = Client().get("/admin/", headers={"host": "other.example"})

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
    assert "RUNQY_ALLOWED_HOSTS" in answer.json()["detail"]
    assert page.status_code == 400
    assert b"RUNQY_ALLOWED_HOSTS" in page.content


def test_a_fault_before_any_view_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(type(get_resolver()), "resolve", fail)

    answer = call("GET", "/queue/t1")

    assert (answer.status, problem(answer)["code"]) == (500, "internal")
    assert b"secret detail" not in answer.body


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("ParseError", 400, "invalid_request"),
        ("NotAuthenticated", 401, "unauthorized"),
        ("AuthenticationFailed", 401, "unauthorized"),
        ("PermissionDenied", 403, "forbidden"),
        ("NotFound", 404, "not_found"),
        ("UnsupportedMediaType", 415, "unsupported_media_type"),
        ("Throttled", 429, "rate_limited"),
    ],
)
def test_errors_of_the_framework_keep_their_status(name: str, status: int, code: str) -> None:
    kind = getattr(exceptions, name)
    error = kind("text/plain") if name == "UnsupportedMediaType" else kind()

    response = exception_handler(error, {})

    assert response is not None
    assert (response.status_code, response.data["code"]) == (status, code)
