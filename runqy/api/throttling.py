"""Rate limits: of requests by API key, and of failed authentications by client address.

All processes share the counts in Redis. While Redis is unavailable nothing is counted or refused.
"""

from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any, cast

from django.conf import settings
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

from runqy.api.requests import AuthenticatedRequest, RateLimitReport
from runqy.api_keys import Identity
from runqy.broker.operation import Operation, ask, get_context
from runqy.broker.rate_limit import Rate, RateLimitStatus, acquire, read_wait
from runqy.config.connection_urls import parse_address
from runqy.errors import BrokerUnavailable, TooManyFailures, TooManyRequests
from runqy.redis_connection import run_blocking
from runqy.telemetry.failure_log import FailureLog

_failures = FailureLog("requests_counted")


@dataclass(frozen=True, slots=True)
class RateLimit:
    """A rate, and the subject that it limits."""

    scope: str
    """`key`, `registrations`, `address` or `login`."""
    subject: str
    rate: Rate

    def acquire(self) -> Operation[RateLimitStatus | None]:
        """Count a request and return the status of the limit; None while Redis is unavailable."""
        try:
            context = yield from get_context()
            status = yield from ask(acquire(f"{self.scope}:{self.subject}", self.rate, now_ns=context.now_ns))
        except BrokerUnavailable as error:
            _record_failure(error)
            return None
        _failures.record_success()
        return status

    def wait_s(self) -> Operation[int]:
        """Return the seconds until a request may pass, without counting one; 0 while Redis is unavailable."""
        try:
            context = yield from get_context()
            return (yield from ask(read_wait(f"{self.scope}:{self.subject}", self.rate, now_ns=context.now_ns)))
        except BrokerUnavailable as error:
            _record_failure(error)
            return 0

    def headers(self, status: RateLimitStatus) -> dict[str, str]:
        """Return the headers of draft-ietf-httpapi-ratelimit-headers-10."""
        # A refused client needs the time until its next request, others the time until all are restored.
        reset_s = status.wait_s or status.reset_s
        return {
            "RateLimit-Policy": f'"{self.scope}";q={self.rate.limit};w={self.rate.window_s}',
            "RateLimit": f'"{self.scope}";r={status.remaining};t={reset_s}',
        }


class RequestLimiter:
    """Counts a request with an API key against a limit."""

    def __init__(self, limit: RateLimit | None, source: str) -> None:
        """`source` names the setting of the rate in the error."""
        self._limit, self._source = limit, source
        # The response's headers about the limit; empty without one.
        self.headers: dict[str, str] = {}

    def count_request(self) -> Operation[None]:
        """Count a request. Raise TooManyRequests beyond the limit."""
        status = (yield from self._limit.acquire()) if self._limit else None
        if self._limit is None or status is None:
            return
        self.headers = self._limit.headers(status)
        if not status.is_allowed:
            detail = f"This key is limited to {self._limit.rate} {self._source}."
            raise TooManyRequests(detail, retry_after_s=status.wait_s)


def key_limiter(identity: Identity) -> RequestLimiter:
    """Return the limiter of requests with this key: to its own rate, or to RUNQY_RATE_LIMIT."""
    rate: Rate | None = identity.rate or settings.RUNQY_RATE_LIMIT
    source = "(its rate_limit)" if identity.rate else "(RUNQY_RATE_LIMIT)"
    return RequestLimiter(_key_rate_limit("key", identity, rate), source)


def registration_limiter(identity: Identity) -> RequestLimiter:
    limit = _key_rate_limit("registrations", identity, settings.RUNQY_REGISTRATION_LIMIT)
    return RequestLimiter(limit, "for registrations (RUNQY_REGISTRATION_LIMIT)")


def _key_rate_limit(scope: str, identity: Identity, rate: Rate | None) -> RateLimit | None:
    return None if rate is None else RateLimit(scope, identity.key_id or identity.role, rate)


class ApiKeyThrottle(BaseThrottle):
    """Limit the requests of a key to its rate, or to RUNQY_RATE_LIMIT."""

    describes_success = True
    """Add the headers to responses that are not refused too."""

    def __init__(self) -> None:
        self._refusal: TooManyRequests | None = None

    def allow_request(self, request: Request, view: Any) -> bool:
        """Count the request and set `request.rate_limit`."""
        limiter = self.make_limiter(cast(AuthenticatedRequest, request).auth)
        try:
            run_blocking(limiter.count_request())
        except TooManyRequests as error:
            self._refusal = error
        if limiter.headers and (self._refusal or self.describes_success):
            report = RateLimitReport(limiter.headers, self._refusal.detail if self._refusal else "")
            cast(AuthenticatedRequest, request).rate_limit = report
        return self._refusal is None

    def wait(self) -> float | None:
        return self._refusal.retry_after_s if self._refusal else None

    def make_limiter(self, identity: Identity) -> RequestLimiter:
        return key_limiter(identity)


class RegistrationThrottle(ApiKeyThrottle):
    """Limit the registrations of workers with a key to RUNQY_REGISTRATION_LIMIT.

    Each registration without a worker_id is another worker, whose claim and user stay in Redis for some minutes.
    """

    describes_success = False

    def make_limiter(self, identity: Identity) -> RequestLimiter:
        return registration_limiter(identity)


class AuthFailureLimiter:
    """Limits the wrong keys from one client address to RUNQY_AUTH_FAILURE_LIMIT.

    Only failures are counted: a valid key works even if others behind the same address guess keys. Short keys of the
    environment are the exception. Beyond the limit they are not compared, or they could be guessed. One that matches is
    refused if the limit was reached meanwhile, since concurrent guesses all start within the limit.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        # The response's headers about the limit; empty as long as it does not concern the request.
        self.headers: dict[str, str] = {}

    def refuse_guess(self) -> Operation[None]:
        """Raise TooManyFailures beyond the limit. Call this before and after comparing a short key."""
        limit = self._limit()
        if limit and (wait_s := (yield from limit.wait_s())):
            # as if it had been counted: the headers must not reveal whether the key matched
            self._report(limit, RateLimitStatus(is_allowed=False, remaining=0, wait_s=wait_s, reset_s=wait_s))

    def record_failure(self) -> Operation[None]:
        """Count a wrong key. Raise TooManyFailures."""
        limit = self._limit()
        if limit and (status := (yield from limit.acquire())):
            self._report(limit, status)

    def _limit(self) -> RateLimit | None:
        rate: Rate | None = settings.RUNQY_AUTH_FAILURE_LIMIT
        return None if rate is None else RateLimit("address", ip_prefix(self._address), rate)

    def _report(self, limit: RateLimit, status: RateLimitStatus) -> None:
        self.headers = limit.headers(status)
        if not status.is_allowed:
            detail = f"An address is limited to {limit.rate} wrong keys (RUNQY_AUTH_FAILURE_LIMIT)."
            raise TooManyFailures(detail, retry_after_s=status.wait_s)


def ip_prefix(address: str) -> str:
    """Return the subject of a limit by address: an IPv4 address, the /64 network of an IPv6 address, else `none`."""
    try:
        parsed = parse_address(address)
    except ValueError:
        return "none"
    if parsed.version == 4:
        return str(parsed)
    return str(ip_network((int(parsed), 64), strict=False).network_address)


def _record_failure(error: BrokerUnavailable) -> None:
    _failures.record("requests_not_counted", key=error.code, error=str(error))
