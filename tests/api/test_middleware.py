"""What the admin has and the API does not."""

from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
from django.core.exceptions import MiddlewareNotUsed
from django.http import HttpResponse
from django.middleware.clickjacking import XFrameOptionsMiddleware
from django.middleware.security import SecurityMiddleware
from django.test import Client, RequestFactory

from runqy.server.middleware import ProxyHeadersMiddleware
from runqy.server.security_headers import security_headers
from runqy.wsgi import application
from tests.api.wsgi import call


@pytest.mark.usefixtures("configuration")
def test_the_admin_has_a_login_with_protection_against_forgery() -> None:
    client = Client(enforce_csrf_checks=True)

    page = client.get("/admin/login/")
    refused = client.post("/admin/login/", {"username": "x", "password": "y"})

    assert page.status_code == 200
    assert "runqy_csrf" in page.cookies
    assert refused.status_code == 403


@pytest.mark.usefixtures("configuration")
def test_the_admin_serves_allowed_hosts_only_and_the_api_any() -> None:
    client = Client(raise_request_exception=False)

    assert client.get("/admin/login/", headers={"Host": "evil.example"}).status_code == 400
    assert client.get("/health", headers={"Host": "evil.example"}).status_code == 200


@pytest.mark.usefixtures("configuration")
@pytest.mark.parametrize("path", ["/livez", "/queue/nope"])
def test_head_has_the_status_and_length_of_get(path: str) -> None:
    got, head = (call(method, path, HTTP_X_REQUEST_ID="same") for method in ("GET", "HEAD"))

    assert head.status == got.status
    assert head.headers["Content-Length"] == got.headers["Content-Length"] == str(len(got.body))


@pytest.mark.usefixtures("configuration")
@pytest.mark.parametrize("first", ["/swagger/index.html", "/admin/login/"])
def test_swagger_finds_the_schema_behind_a_path_prefix(first: str) -> None:
    page = {"path": "/swagger/index.html", "QUERY_STRING": "script="}

    before = call("GET", **page)
    call("GET", first, SCRIPT_NAME="/runqy")
    plain, prefixed, after = (call("GET", **page, SCRIPT_NAME=name) for name in ("", "/runqy", ""))

    assert b'"/runqy/api/schema/"' in prefixed.body
    assert all(b'"/api/schema/"' in response.body for response in (before, plain, after))


def test_an_empty_path_info_may_be_missing() -> None:
    environ: dict[str, Any] = {}
    setup_testing_defaults(environ)
    del environ["PATH_INFO"]
    started: list[Any] = []

    application(environ, lambda status, headers: started.extend((status, dict(headers)["Content-Type"])))

    assert started == ["200 OK", "text/html; charset=utf-8"]


def test_https_redirects_the_api_and_sets_hsts(settings: Any) -> None:
    settings.SECURE_SSL_REDIRECT, settings.SECURE_HSTS_SECONDS = True, 3600
    client = Client()

    moved, plain, secure = client.get("/queue/t1"), client.get("/livez"), client.get("/livez", secure=True)

    assert (moved.status_code, moved["Location"]) == (301, "https://testserver/queue/t1")
    assert (plain.status_code, secure.status_code) == (200, 200)
    assert secure["Strict-Transport-Security"].startswith("max-age=3600")
    assert not plain.has_header("Strict-Transport-Security")
    assert {response["X-Content-Type-Options"] for response in (moved, plain, secure)} == {"nosniff"}


@pytest.mark.parametrize("is_for_all", [True, False])
def test_the_security_headers_are_those_of_djangos_middleware(settings: Any, is_for_all: bool) -> None:
    settings.SECURE_HSTS_SECONDS = 3600
    settings.SECURE_HSTS_INCLUDE_SUBDOMAINS = settings.SECURE_HSTS_PRELOAD = is_for_all
    request, response = RequestFactory().get("/", secure=True), HttpResponse()

    for middleware in (SecurityMiddleware, XFrameOptionsMiddleware):
        response = middleware(lambda _, before=response: before)(request)

    headers = security_headers("https")
    assert headers.pop("Content-Security-Policy")
    assert headers == {name: value for name, value in response.items() if name != "Content-Type"}


def test_without_trusted_proxies_headers_are_ignored(settings: Any) -> None:
    settings.RUNQY_TRUSTED_PROXIES = ()

    with pytest.raises(MiddlewareNotUsed):
        ProxyHeadersMiddleware(lambda _: HttpResponse())
