"""Every error on every path is a problem with the request id."""

import json
import re
from typing import Any

import pytest
from django.test import Client
from django.urls import get_resolver
from drf_spectacular.generators import SchemaGenerator
from rest_framework import exceptions

from runqy.api.exceptions import exception_handler
from runqy.errors import RequestInvalid
from tests.api.wsgi import Response, call

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("configuration", "each_plane")]

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY")
SHARED = {f"/api/cli/configs/{name}": {"GET", "PUT", "DELETE"} for name in ("reload", "apply")}
"""Paths that are also those of something else: here of queues called reload and apply."""
HOOK = "/hooks/git/0"
"""Needs no key: git hosts sign what they send."""


def problem(response: Response) -> dict[str, Any]:
    """Check that a response is a problem, and return its body."""
    assert response.headers["Content-Type"] == "application/problem+json", response
    found: dict[str, Any] = json.loads(response.body)
    assert found.keys() == {"type", "title", "status", "detail", "code", "errors", "request_id"}
    assert found["status"] == response.status
    assert found["request_id"] == response.headers["X-Request-ID"]
    return found


def assert_problem(method: str, response: Response, status: int, code: str) -> None:
    """Check that a response is this problem; for HEAD, without a body."""
    assert response.status == status
    if method == "HEAD":
        assert response.headers["Content-Type"] == "application/problem+json"
        assert response.body == b""
    else:
        assert problem(response)["code"] == code


def operations() -> list[tuple[str, set[str], dict[str, Any]]]:
    """Return each path of the schema with unknown names, its methods, and their operations."""
    paths = SchemaGenerator().get_schema(request=None, public=True)["paths"]
    return [
        (re.sub(r"\{\w+\}", "0", path), {method.upper() for method in operations}, operations)
        for path, operations in paths.items()
    ]


def test_an_undocumented_method_is_refused_with_allow() -> None:
    for path, methods, _ in operations():
        allowed = methods | SHARED.get(path, set())
        allowed |= {"HEAD"} if "GET" in allowed else set()
        if path == HOOK:
            continue  # without a signature, which only a POST has, it says nothing
        for method in set(METHODS) - allowed:
            response = call(method, path)

            assert_problem(method, response, 405, "method_not_allowed")
            assert set(response.headers["Allow"].split(", ")) == allowed, path


@pytest.mark.parametrize("authorization", ["", "Bearer wrong"])
def test_every_operation_but_the_public_ones_requires_a_key(settings: Any, authorization: str) -> None:
    settings.RUNQY_AUTH_FAILURE_LIMIT = None
    public = {"/health", "/livez", "/readyz", "/api/schema/", "/swagger/doc.json"}

    for path, methods, documented in operations():
        for method in methods:
            response = call(method, path, HTTP_AUTHORIZATION=authorization)

            if path in public:
                assert response.status == 200, path
            elif path == HOOK:
                assert problem(call(method, path, b"{}"))["code"] == "push_unsigned"
            else:
                assert (response.status, problem(response)["code"]) == (401, "unauthorized"), (method, path)
                assert "401" in documented[method.lower()]["responses"], (method, path)


@pytest.mark.parametrize(
    "path",
    ["//", "/nowhere", "/queue/", "/api/keys/a/b", "/api/schema", "/admi", "/static/no", "/api/keys/\xff/", "/\x00"],
)
def test_an_unknown_path_is_a_problem_for_every_method(path: str) -> None:
    for method in ("GET", "HEAD") if path.startswith("/static/") else METHODS:
        assert_problem(method, call(method, path), 404, "not_found")


@pytest.mark.parametrize(("path", "expected"), [("/", (200, None)), ("/admin", (302, "/admin/"))])
def test_short_paths_are_read_only(path: str, expected: tuple[int, str | None]) -> None:
    found = {method: call(method, path, HTTP_AUTHORIZATION="") for method in METHODS}

    for method in ("GET", "HEAD"):
        assert (found[method].status, found[method].headers.get("Location")) == expected
    for method in set(METHODS) - {"GET", "HEAD"}:
        assert problem(found[method])["code"] == "method_not_allowed"
        assert method == "OPTIONS" or found[method].headers["Allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    ("environ", "status", "code"),
    [
        ({"QUERY_STRING": "wait=%ff"}, 400, "invalid_request"),
        ({"QUERY_STRING": "&".join(f"a{i}=1" for i in range(20_000)) + "&wait=1"}, 400, "invalid_request"),
        ({"HTTP_HOST": "a b"}, 404, "task_not_found"),
        ({"HTTP_IF_NONE_MATCH": "nonsense"}, 404, "task_not_found"),
    ],
)
def test_malformed_requests_are_problems(environ: dict[str, str], status: int, code: str) -> None:
    response = call("GET", "/queue/x", **environ)

    assert (response.status, problem(response)["code"]) == (status, code)


@pytest.mark.parametrize(
    ("environ", "status", "code"),
    [
        ({"CONTENT_LENGTH": "x"}, 400, "invalid_request"),
        ({"CONTENT_LENGTH": "99999999999"}, 413, "too_large"),
        ({"HTTP_CONTENT_ENCODING": "gzip"}, 415, "unsupported_encoding"),
    ],
)
def test_malformed_bodies_are_problems_on_every_route(environ: dict[str, str], status: int, code: str) -> None:
    posts = [(path, documented.get("post", {}).get("requestBody", {})) for path, _, documented in operations()]
    paths = [path for path, body in posts if body.get("required")]  # to others nothing is sent

    assert len(paths) > 5
    for path in paths:
        response = call("POST", path, b"x", **environ)

        assert (response.status, problem(response)["code"]) == (status, code), path


def test_the_error_for_a_refused_host_names_the_setting(settings: Any) -> None:
    settings.SECURE_SSL_REDIRECT = True  # which reads the host

    response = Client().get("/queue/x", headers={"host": "other.example"})
    page = Client().get("/admin/", headers={"host": "other.example"})

    assert (response.status_code, response.json()["code"]) == (400, "invalid_request")
    assert "RUNQY_ALLOWED_HOSTS" in response.json()["detail"]
    assert page.status_code == 400
    assert b"RUNQY_ALLOWED_HOSTS" in page.content


def test_an_error_before_any_view_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(type(get_resolver()), "resolve", fail)

    response = call("GET", "/health")

    assert (response.status, problem(response)["code"]) == (500, "internal")
    assert b"secret detail" not in response.body


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


def test_the_detail_of_several_errors_ends_in_one_period() -> None:
    error = RequestInvalid(errors=["queue: This field is required.", "jobs: must be a list."])

    assert error.detail == "queue: This field is required; jobs: must be a list."
    assert error.errors == ("queue: This field is required.", "jobs: must be a list.")
