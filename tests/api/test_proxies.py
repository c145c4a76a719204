"""Proxies, HTTPS and host names, on both planes: whose headers are believed, what is redirected, what is refused."""

from collections.abc import Iterator
from ipaddress import ip_network
from typing import Any

import pytest
import redis as redis_py
from django.core.handlers.wsgi import WSGIHandler

from queues.models import QueueSource
from queues.operations import save_queue
from runqy.broker import keys
from runqy.server.dataplane.responses import encoded_security_headers
from tests.api.client import ApiClient, problem
from tests.queues.samples import spec

PROXY, TLS_PROXY = "10.0.0.1", "10.0.0.2"
pytestmark = pytest.mark.usefixtures("https_only", "each_plane")


@pytest.fixture
def https_only(configuration: None, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Be a process that started with HTTPS and trusted proxies; before `each_plane`, so that this holds for both."""
    settings.RUNQY_TRUSTED_PROXIES = (ip_network("10.0.0.0/8"), ip_network("::1/128"))
    settings.SECURE_SSL_REDIRECT, settings.SECURE_HSTS_SECONDS = True, 3600
    monkeypatch.setattr("runqy.asgi.wsgi_application", WSGIHandler())
    encoded_security_headers.cache_clear()
    yield
    encoded_security_headers.cache_clear()


@pytest.mark.parametrize("path", ["/queue/x", "/queue/x/events", "/queue/x/stream"])
@pytest.mark.parametrize(
    ("address", "scheme", "forwarded"),
    [
        (PROXY, "http", "https"),
        ("::1", "http", "https"),
        (f"::ffff:{PROXY}", "http", "https"),
        (PROXY, "https", "nonsense"),
        (PROXY, "https", ""),
        ("198.51.100.1", "https", ""),
        ("198.51.100.1", "https", "http"),
    ],
)
def test_a_request_by_https_gets_a_response_that_demands_https(
    path: str, address: str, scheme: str, forwarded: str
) -> None:
    client = ApiClient(address=address, scheme=scheme)

    response = client.get(path, **{"X-Forwarded-Proto": forwarded})

    assert (response.status_code, problem(response)["code"]) == (404, "task_not_found")
    assert response["Strict-Transport-Security"] == "max-age=3600"


@pytest.mark.parametrize(
    ("address", "scheme", "forwarded"),
    [
        (PROXY, "http", "http"),
        (PROXY, "http", ""),
        (PROXY, "http", "https, http"),
        (PROXY, "https", "http"),
        ("198.51.100.1", "http", "https"),
        ("", "http", "https"),
    ],
)
def test_a_request_by_http_is_redirected(address: str, scheme: str, forwarded: str) -> None:
    client = ApiClient(address=address, scheme=scheme)

    response = client.get("/queue/x?wait=1", **{"X-Forwarded-Proto": forwarded})

    assert (response.status_code, response["Location"]) == (301, "https://testserver/queue/x?wait=1")
    assert not response.has_header("Strict-Transport-Security")


@pytest.mark.parametrize(("path", "members"), [("/queue/add", {"data": {}}), ("/queue/add-batch", {"jobs": [{}]})])
def test_a_task_that_is_sent_by_http_is_not_enqueued(redis: redis_py.Redis, path: str, members: dict[str, Any]) -> None:
    save_queue(spec=spec("simple"), source=QueueSource.API)
    body = {"queue": "simple", **members}

    redirected = ApiClient().post(path, body)
    pending = redis.llen(keys.QueueKeys("simple").pending)
    enqueued = ApiClient(address=PROXY).post(path, body, **{"X-Forwarded-Proto": "https"})

    assert (redirected.status_code, redirected["Location"]) == (301, f"https://testserver{path}")
    assert pending == 0
    assert enqueued.status_code == 200


@pytest.mark.parametrize(
    ("nearest", "forwarded", "client"),
    [
        (PROXY, "203.0.113.9", "203.0.113.9"),
        (PROXY, "1.1.1.1, 203.0.113.9", "203.0.113.9"),
        (PROXY, "203.0.113.9, 10.0.0.2", "203.0.113.9"),
        (PROXY, "1.1.1.1, 203.0.113.9:4711, 10.0.0.2:80", "203.0.113.9"),
        (PROXY, "[2001:db8::1]:4711", "2001:db8::"),
        (PROXY, "[2001:db8::1]", "2001:db8::"),
        (PROXY, "", PROXY),
        (PROXY, "nonsense", PROXY),
        ("::1", "2001:db8::1", "2001:db8::"),
        (f"::ffff:{PROXY}", "::ffff:203.0.113.9", "203.0.113.9"),
        ("198.51.100.1", "203.0.113.9", "198.51.100.1"),
        ("", "203.0.113.9", "none"),
    ],
)
def test_a_wrong_key_counts_against_the_nearest_untrusted_address(
    redis: redis_py.Redis, nearest: str, forwarded: str, client: str
) -> None:
    response = ApiClient("wrong", address=nearest, scheme="https").get("/queue/x", **{"X-Forwarded-For": forwarded})

    assert response.status_code == 401
    assert [key.decode() for key in redis.keys(keys.rate("*"))] == [keys.rate(f"address:{client}")]


def test_clients_of_the_api_may_use_any_host_name() -> None:
    client = ApiClient(scheme="https")

    for headers in ({"Host": "evil.example"}, {"X-Forwarded-Host": "evil.example"}):
        assert problem(client.get("/queue/x", **headers))["code"] == "task_not_found"


def test_no_client_is_redirected_to_a_host_that_is_not_allowed() -> None:
    response = ApiClient().get("/queue/x", Host="evil.example")

    assert (response.status_code, problem(response)["code"]) == (400, "invalid_request")
    assert "RUNQY_ALLOWED_HOSTS" in problem(response)["detail"]
