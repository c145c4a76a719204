"""What the admin has and the API does not, and which proxies are believed."""

from ipaddress import ip_network
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
from django.core.exceptions import MiddlewareNotUsed
from django.http import HttpRequest, HttpResponse
from django.test import Client, RequestFactory

from runqy.middleware import ProxyHeadersMiddleware
from runqy.wsgi import application
from tests.api.wsgi import call

PROXIES = (ip_network("10.0.0.0/8"), ip_network("::1/128"))


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

    application(environ, lambda status, headers: started.extend((status, dict(headers)["Location"])))

    assert started == ["302 Found", "/swagger/index.html"]


def test_https_redirects_the_api_and_sets_hsts(settings: Any) -> None:
    settings.SECURE_SSL_REDIRECT, settings.SECURE_HSTS_SECONDS = True, 3600
    client = Client()

    moved, plain, secure = client.get("/queue/t1"), client.get("/livez"), client.get("/livez", secure=True)

    assert (moved.status_code, moved["Location"]) == (301, "https://testserver/queue/t1")
    assert (plain.status_code, secure.status_code) == (200, 200)
    assert secure["Strict-Transport-Security"].startswith("max-age=3600")
    assert not plain.has_header("Strict-Transport-Security")
    assert {response["X-Content-Type-Options"] for response in (moved, plain, secure)} == {"nosniff"}


def passed_on(settings: Any, **headers: str) -> HttpRequest:
    """Return a request after the middleware."""
    settings.RUNQY_TRUSTED_PROXIES = PROXIES
    seen: list[HttpRequest] = []

    def view(request: HttpRequest) -> HttpResponse:
        seen.append(request)
        return HttpResponse()

    ProxyHeadersMiddleware(view)(RequestFactory().get("/", **headers))
    return seen[0]


@pytest.mark.parametrize(
    ("nearest", "forwarded", "client"),
    [
        ("10.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "1.1.1.1, 203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "203.0.113.9, 10.0.0.2", "203.0.113.9"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "nonsense", "10.0.0.1"),
        ("::1", "2001:db8::1", "2001:db8::1"),
        ("198.51.100.1", "203.0.113.9", "198.51.100.1"),
    ],
)
def test_the_client_is_the_nearest_untrusted_address(settings: Any, nearest: str, forwarded: str, client: str) -> None:
    request = passed_on(settings, REMOTE_ADDR=nearest, HTTP_X_FORWARDED_FOR=forwarded)

    assert request.META["REMOTE_ADDR"] == client


def test_https_is_accepted_from_a_trusted_proxy_only(settings: Any) -> None:
    forwarded = {"HTTP_X_FORWARDED_PROTO": "https"}

    assert passed_on(settings, REMOTE_ADDR="10.0.0.1", **forwarded).is_secure()
    assert not passed_on(settings, REMOTE_ADDR="198.51.100.1", **forwarded).is_secure()


def test_without_trusted_proxies_headers_are_ignored(settings: Any) -> None:
    settings.RUNQY_TRUSTED_PROXIES = ()

    with pytest.raises(MiddlewareNotUsed):
        ProxyHeadersMiddleware(lambda _: HttpResponse())
