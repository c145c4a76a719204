"""Rate limits: of requests by API key, and of failed authentications and logins by client address.

All processes share the counts in Redis. While Redis is unavailable nothing is counted or refused.
"""

from collections.abc import Callable
from functools import partial
from ipaddress import ip_network
from typing import Any, cast

from django.conf import settings
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

from runqy.api.requests import AuthenticatedRequest, RateLimitReport
from runqy.broker.rate_limit import RateLimitStatus, acquire, read_wait
from runqy.broker.request import AnyBroker
from runqy.core.api_keys import Identity
from runqy.core.environment.connection_urls import parse_address
from runqy.core.formats.durations import Rate
from runqy.core.telemetry.failure_log import FailureLog
from runqy.errors import BrokerUnavailable, TooManyFailures, TooManyRequests
from runqy.redis_connection import get_broker

REGISTRATION_LIMIT = Rate(1200, 60)
"""Registrations of workers with a key, one for each queue of a worker. Beyond it 429, and workers retry."""
_failures = FailureLog("requests_counted")


class RateLimiter:
    """Counts requests of a subject against a rate; without a rate it counts none."""

    def __init__(
        self,
        scope: str,
        find_subject: Callable[[], str],
        rate: Rate | None,
        *,
        refusal: str,
        error: type[TooManyRequests] = TooManyRequests,
    ) -> None:
        """`refusal` is the detail of the error, with `{rate}`. `find_subject` is only called to count or check."""
        self._scope, self._find_subject, self.rate = scope, find_subject, rate
        self._refusal, self._error = refusal, error
        # The response's headers about the limit; empty as long as it does not concern the request.
        self.headers: dict[str, str] = {}

    async def count(self, broker: AnyBroker) -> None:
        """Count a request. Raise the error beyond the limit."""
        if self.rate is None:
            return
        try:
            now_ns = broker.now_ns()
            status = await broker.send(acquire(self._key(), self.rate, now_ns=now_ns))
        except BrokerUnavailable as error:
            _failures.record("requests_not_counted", key=error.code, error=error.detail)
            return
        _failures.record_success()
        self._report(self.rate, status)

    async def check(self, broker: AnyBroker) -> None:
        """Raise the error beyond the limit, without counting a request."""
        if self.rate is None:
            return
        try:
            now_ns = broker.now_ns()
            wait_s = await broker.send(read_wait(self._key(), self.rate, now_ns=now_ns))
        except BrokerUnavailable as error:
            _failures.record("requests_not_counted", key=error.code, error=error.detail)
            return
        if wait_s:
            # As if it had been counted: the headers must not reveal whether a guessed key matched.
            self._report(self.rate, RateLimitStatus(is_allowed=False, remaining=0, wait_s=wait_s, reset_s=wait_s))

    def _key(self) -> str:
        return f"{self._scope}:{self._find_subject()}"

    def _report(self, rate: Rate, status: RateLimitStatus) -> None:
        """Set the headers of draft-ietf-httpapi-ratelimit-headers-10. Raise the error if the request is refused."""
        # A refused client needs the time until its next request, others the time until all are restored.
        reset_s = status.wait_s or status.reset_s
        self.headers = {
            "RateLimit-Policy": f'"{self._scope}";q={rate.limit};w={rate.window_s}',
            "RateLimit": f'"{self._scope}";r={status.remaining};t={reset_s}',
        }
        if not status.is_allowed:
            raise self._error(self._refusal.format(rate=rate), retry_after_s=status.wait_s)


def key_limiter(identity: Identity) -> RateLimiter:
    """Return the limiter of requests with this key: to its own rate, or to RUNQY_RATE_LIMIT."""
    source = "its rate_limit" if identity.rate else "RUNQY_RATE_LIMIT"
    return _limiter_of_key("key", identity, identity.rate or settings.RUNQY_RATE_LIMIT, f"({source})")


def registration_limiter(identity: Identity) -> RateLimiter:
    return _limiter_of_key("registrations", identity, REGISTRATION_LIMIT, "for registrations")


def _limiter_of_key(scope: str, identity: Identity, rate: Rate | None, source: str) -> RateLimiter:
    refusal = f"This key is limited to {{rate}} {source}."
    return RateLimiter(scope, lambda: identity.key_id or identity.role, rate, refusal=refusal)


def failure_limiter(address: str) -> RateLimiter:
    """Return the limiter of wrong keys from one client address, to RUNQY_AUTH_FAILURE_LIMIT.

    Only failures are counted: a valid key works even if others behind the same address guess keys. Short keys of the
    environment are the exception. Beyond the limit they are not compared, or they could be guessed. One that matches is
    refused if the limit was reached meanwhile, since concurrent guesses all start within the limit.
    """
    refusal = "An address is limited to {rate} wrong keys (RUNQY_AUTH_FAILURE_LIMIT)."
    return _limiter_of_address("address", address, refusal)


def login_limiter(address: str) -> RateLimiter:
    """Return the limiter of attempts to log in, right or wrong, from one client address."""
    return _limiter_of_address("login", address, "An address is limited to {rate} logins (RUNQY_AUTH_FAILURE_LIMIT).")


def _limiter_of_address(scope: str, address: str, refusal: str) -> RateLimiter:
    rate: Rate | None = settings.RUNQY_AUTH_FAILURE_LIMIT
    return RateLimiter(scope, partial(ip_prefix, address), rate, refusal=refusal, error=TooManyFailures)


class ApiKeyThrottle(BaseThrottle):
    """Limit the requests of a key to its rate, or to RUNQY_RATE_LIMIT."""

    describes_success = True
    """Add the headers to responses that are not refused too."""

    _wait_s: int | None = None

    def allow_request(self, request: Request, view: Any) -> bool:
        """Count the request and set `request.rate_limit`."""
        limiter, refusal = self.make_limiter(cast(AuthenticatedRequest, request).auth), ""
        if limiter.rate is None:
            return True
        try:
            get_broker().run(limiter.count(get_broker()))
        except TooManyRequests as error:
            refusal, self._wait_s = error.detail, error.retry_after_s
        if limiter.headers and (refusal or self.describes_success):
            cast(AuthenticatedRequest, request).rate_limit = RateLimitReport(limiter.headers, refusal)
        return not refusal

    def wait(self) -> float | None:
        return self._wait_s

    def make_limiter(self, identity: Identity) -> RateLimiter:
        return key_limiter(identity)


class RegistrationThrottle(ApiKeyThrottle):
    """Limit the registrations of workers with a key to REGISTRATION_LIMIT.

    Each registration without a worker_id is another worker, whose claim and user stay in Redis for some minutes.
    """

    describes_success = False

    def make_limiter(self, identity: Identity) -> RateLimiter:
        return registration_limiter(identity)


def ip_prefix(address: str) -> str:
    """Return the subject of a limit by address: an IPv4 address, the /64 network of an IPv6 address, else `none`."""
    try:
        parsed = parse_address(address)
    except ValueError:
        return "none"
    if parsed.version == 4:
        return str(parsed)
    return str(ip_network((int(parsed), 64), strict=False).network_address)
