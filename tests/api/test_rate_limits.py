"""Rate limits of keys and of failed authentications."""

from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest
from django.http import HttpResponse

from runqy import clock
from runqy.accounts.operations import create_api_key
from runqy.api.throttling import RateLimiter
from runqy.core.formats.durations import Rate
from runqy.errors import TooManyRequests
from runqy.redis_connection import get_broker
from tests.api.client import ApiClient, problem
from tests.api.wsgi import Response, call
from tests.support.data_plane import DataPlane
from tests.support.environment import ADMIN_KEY, CLIENT_KEY, WORKER_KEY
from tests.support.lost_replies import lose_reply

pytestmark = pytest.mark.usefixtures("configuration", "each_plane")

HOUR_S = 3600
"""A window so long that nothing is restored while a test runs, however slow the machine is."""


def guess(address: str = "203.0.113.9", key: str = "wrong", **environ: str) -> Response:
    """Send a request with a key from an address."""
    return call("GET", "/queue/x", HTTP_AUTHORIZATION=f"Bearer {key}", REMOTE_ADDR=address, **environ)


def statuses(count: int, *args: str, **environ: str) -> list[int]:
    """Send this number of requests; return their statuses."""
    return [guess(*args, **environ).status for _ in range(count)]


def test_a_key_without_a_limit_is_not_counted(redis: Any) -> None:
    response = ApiClient(CLIENT_KEY).get("/queue/x")

    assert not response.has_header("RateLimit")
    assert redis.keys("runqy:rate:*") == []


def test_a_key_beyond_its_limit_gets_retry_after(settings: Any) -> None:
    settings.RUNQY_RATE_LIMIT = Rate(2, HOUR_S)

    first, second, third = (ApiClient(CLIENT_KEY).get("/queue/x") for _ in range(3))

    assert [first.status_code, second.status_code, third.status_code] == [404, 404, 429]
    assert problem(third)["code"] == "rate_limited"
    assert 1500 <= int(third["Retry-After"]) <= 1800
    assert first["RateLimit-Policy"] == third["RateLimit-Policy"] == '"key";q=2;w=3600'
    assert first["RateLimit"] == '"key";r=1;t=1800'
    assert third["RateLimit"] == f'"key";r=0;t={third["Retry-After"]}'


def test_each_key_has_a_limit_of_its_own(settings: Any) -> None:
    settings.RUNQY_RATE_LIMIT = Rate(1, HOUR_S)
    keys = [ADMIN_KEY, CLIENT_KEY, *(create_api_key(name="x", role="client").plain for _ in range(2))]

    codes = [[ApiClient(key).get("/queue/x").status_code for _ in range(2)] for key in keys]

    assert codes == [[404, 429]] * 4


def test_a_keys_own_limit_replaces_the_servers(settings: Any) -> None:
    settings.RUNQY_RATE_LIMIT = Rate(1, HOUR_S)
    slow, fast = (create_api_key(name="x", role="client", rate_limit=rate).plain for rate in ("2/h", "1000/h"))

    responses = [ApiClient(slow).get("/queue/x") for _ in range(3)]

    assert [response.status_code for response in responses] == [404, 404, 429]
    assert problem(responses[2])["detail"] == "This key is limited to 2 in 3600 s (its rate_limit)."
    assert [ApiClient(fast).get("/queue/x").status_code for _ in range(3)] == [404] * 3


def test_a_keys_own_limit_applies_without_one_of_the_server() -> None:
    key = create_api_key(name="x", role="client", rate_limit="1/h").plain

    assert [ApiClient(key).get("/queue/x").status_code for _ in range(2)] == [404, 429]


@pytest.mark.parametrize("rate", ["1", "0/s", "1/d", "-1/s", "1/s/s", "9999999/s", "100001/s"])
def test_an_invalid_rate_is_refused(rate: str) -> None:
    response = ApiClient().post("/api/keys", {"name": "x", "rate_limit": rate})

    assert any(error.startswith("rate_limit: ") for error in problem(response)["errors"])


def test_a_request_that_the_role_forbids_is_not_counted(settings: Any) -> None:
    settings.RUNQY_RATE_LIMIT = Rate(1, HOUR_S)

    codes = [ApiClient(WORKER_KEY).get("/queue/x").status_code for _ in range(2)]
    codes += [ApiClient(WORKER_KEY).get("/api/limits").status_code for _ in range(2)]

    assert codes == [403, 403, 200, 429]


def test_public_routes_are_not_counted(settings: Any) -> None:
    settings.RUNQY_RATE_LIMIT = Rate(1, HOUR_S)

    assert [ApiClient(CLIENT_KEY).get("/health").status_code for _ in range(3)] == [200] * 3


@pytest.mark.usefixtures("redis_away")
def test_while_redis_is_unavailable_no_request_is_throttled(settings: Any) -> None:
    settings.RUNQY_RATE_LIMIT = Rate(1, HOUR_S)

    assert [guess(key=CLIENT_KEY).status, guess().status] == [503, 401]


def test_a_request_passes_and_counts_although_the_reply_to_its_count_was_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    limiter = RateLimiter("key", lambda: "k", Rate(2, HOUR_S), refusal="")
    lost = lose_reply(monkeypatch, "rate_limit")

    get_broker().run(limiter.count(get_broker()))  # it is not throttled

    assert lost
    assert limiter.headers == {}
    get_broker().run(limiter.count(get_broker()))
    with pytest.raises(TooManyRequests):
        get_broker().run(limiter.count(get_broker()))


@pytest.mark.usefixtures("cluster_away")
def test_a_short_key_is_compared_while_a_cluster_is_unavailable(settings: Any) -> None:
    settings.RUNQY_CLIENT_API_KEY = "short"

    assert [guess().status, guess(key="short").status] == [401, 503]


def test_an_address_beyond_the_limit_gets_retry_after(settings: Any) -> None:
    settings.RUNQY_AUTH_FAILURE_LIMIT = Rate(3, HOUR_S)

    assert statuses(5) == [401] * 3 + [429] * 2
    last = guess()
    assert last.headers["Content-Type"] == "application/problem+json"
    assert 900 <= int(last.headers["Retry-After"]) <= 1200
    assert last.headers["RateLimit-Policy"] == '"address";q=3;w=3600'
    assert b"too_many_failures" in last.body


def test_failures_are_limited_by_default(settings: Any) -> None:
    settings.RUNQY_AUTH_FAILURE_LIMIT = replace(settings.RUNQY_AUTH_FAILURE_LIMIT, window_s=HOUR_S)

    assert 429 in statuses(31)


def test_a_valid_key_works_despite_failures_from_its_address(settings: Any) -> None:
    settings.RUNQY_AUTH_FAILURE_LIMIT = Rate(1, HOUR_S)
    made = create_api_key(name="x", role="client").plain

    assert statuses(3)[-1] == 429
    assert [guess(key=key).status for key in (CLIENT_KEY, ADMIN_KEY, made)] == [404] * 3


def test_guesses_are_counted_by_their_address(settings: Any) -> None:
    settings.RUNQY_AUTH_FAILURE_LIMIT = Rate(1, HOUR_S)

    assert statuses(2, "198.51.100.1") == [401, 429]
    assert statuses(2, "198.51.100.2") == [401, 429]
    assert statuses(1, "2001:db8::1") == [401]
    assert statuses(1, "2001:db8::ffff:2") == [429]
    assert statuses(1, "2001:db8:0:1::1") == [401]
    assert statuses(2, "") == [401, 429]


def test_failures_behind_a_trusted_proxy_are_counted_by_the_forwarded_address(settings: Any) -> None:
    settings.RUNQY_AUTH_FAILURE_LIMIT = Rate(1, HOUR_S)
    settings.RUNQY_TRUSTED_PROXIES = (ip_network("10.0.0.0/8"),)

    def status(nearest: str, forwarded: str) -> int:
        client = ApiClient("wrong", address=nearest)
        return int(client.get("/queue/x", **{"X-Forwarded-For": forwarded}).status_code)

    assert [status("10.0.0.1", "192.0.2.1"), status("10.0.0.2", "192.0.2.1")] == [401, 429]
    assert status("10.0.0.1", "192.0.2.2") == 401
    assert [status("198.51.100.1", f"192.0.2.{i}") for i in (3, 4)] == [401, 429]


def test_a_missing_key_is_not_counted(settings: Any) -> None:
    settings.RUNQY_AUTH_FAILURE_LIMIT = Rate(1, HOUR_S)

    assert [ApiClient(None).get("/queue/x").status_code for _ in range(3)] == [401] * 3


def test_the_limit_of_guesses_can_be_off(settings: Any, redis: Any) -> None:
    settings.RUNQY_AUTH_FAILURE_LIMIT = None

    assert statuses(40) == [401] * 40
    assert redis.keys("runqy:rate:*") == []


def test_an_ipv4_address_counts_alone_however_it_is_written(settings: Any) -> None:
    settings.RUNQY_AUTH_FAILURE_LIMIT = Rate(1, HOUR_S)

    assert statuses(2, "::ffff:203.0.113.9") == [401, 429]
    assert statuses(1, "203.0.113.9") == [429]
    assert statuses(1, "::ffff:203.0.113.10") == [401]


def test_short_keys_are_not_compared_beyond_the_limit(settings: Any) -> None:
    settings.RUNQY_AUTH_FAILURE_LIMIT = Rate(2, HOUR_S)
    settings.RUNQY_CLIENT_API_KEY = "short"
    settings.RUNQY_WORKER_API_KEY = "32-characters-are-long-enough-ab"
    made = create_api_key(name="x", role="client").plain

    def status(key: str) -> int:
        return int(ApiClient(key).get("/queue/x").status_code)

    assert status("short") == 404
    assert [status("guess") for _ in range(3)] == [401, 401, 429]
    assert [status("short"), status("guess")] == [429, 429]
    assert [status(made), status(ADMIN_KEY), status("32-characters-are-long-enough-ab")] == [404, 404, 403]


@pytest.mark.usefixtures("configuration")
def test_concurrent_guesses_beyond_the_limit_never_match_a_short_key(
    settings: Any, data_plane: DataPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_ns = clock.now_ns()
    monkeypatch.setattr(clock, "now_ns", lambda: now_ns)  # between two requests a second may end
    settings.RUNQY_AUTH_FAILURE_LIMIT = Rate(2, HOUR_S)
    settings.RUNQY_CLIENT_API_KEY = "short"

    def guess(*keys: str) -> list[HttpResponse]:
        return data_plane.send_together([("GET", "/queue/x", {"X-API-Key": key}, b"") for key in keys])

    counted = guess(*(f"guess{number}" for number in range(20)))
    responses = guess("guess", "short")

    assert sorted(response.status_code for response in counted) == [401] * 2 + [429] * 18
    assert [response.status_code for response in responses] == [429] * 2
    headers = ("Retry-After", "RateLimit", "RateLimit-Policy", "WWW-Authenticate", "Content-Length")
    right, wrong = ({name: response.get(name) for name in headers} for response in responses)
    assert right == wrong


def test_a_valid_short_key_is_not_counted(settings: Any, redis: Any) -> None:
    settings.RUNQY_CLIENT_API_KEY = "short"

    assert {guess(key="short").status for _ in range(40)} == {404}
    assert redis.keys("runqy:rate:*") == []
