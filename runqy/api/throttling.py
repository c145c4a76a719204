"""Rate limits: of requests by API key, and of failed authentications by client address.

All processes share one count in Redis. While Redis is away nothing is counted and nobody is refused.
"""

import math
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any, cast

import structlog
from django.conf import settings
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

from runqy.accounts.identity import Identity
from runqy.addresses import parse_address
from runqy.api.requests import AuthenticatedRequest
from runqy.broker.operation import Operation, ask, get_context
from runqy.broker.rates import Allowance, Rate, read_wait, spend
from runqy.connection import get_broker
from runqy.errors import BrokerUnavailable, TooManyFailures, TooManyRequests

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RateLimit:
    """A rate, and the subject that it limits."""

    scope: str
    """`key`, `address` or `login`."""
    subject: str
    rate: Rate

    def acquire(self) -> Operation[Allowance | None]:
        """Count a request and return what is left; None while Redis is away."""
        context = yield from get_context()
        try:
            return (yield from ask(spend(f"{self.scope}:{self.subject}", self.rate, now_ns=context.now_ns)))
        except BrokerUnavailable as error:
            log.warning("request_not_counted", error=error.detail)
            return None

    def wait_s(self) -> Operation[int]:
        """Return after how many seconds a request may pass, without counting one; 0: at once, or Redis is away."""
        context = yield from get_context()
        try:
            return (yield from ask(read_wait(f"{self.scope}:{self.subject}", self.rate, now_ns=context.now_ns)))
        except BrokerUnavailable as error:
            log.warning("rate_not_read", error=error.detail)
            return 0

    def acquire_blocking(self) -> Allowance | None:
        """Count a request and return what is left; None while Redis is away, also where it was never reached."""
        try:
            return get_broker().run(self.acquire())
        except BrokerUnavailable as error:
            log.warning("request_not_counted", error=error.detail)
            return None

    def wait_blocking_s(self) -> int:
        """Return what `wait_s` does; 0 also where Redis was never reached."""
        try:
            return get_broker().run(self.wait_s())
        except BrokerUnavailable as error:
            log.warning("rate_not_read", error=error.detail)
            return 0

    def headers(self, allowance: Allowance) -> dict[str, str]:
        """Return the headers of draft-ietf-httpapi-ratelimit-headers-10."""
        reset_s = allowance.wait_s or allowance.reset_s
        return {
            "RateLimit-Policy": f'"{self.scope}";q={self.rate.most};w={self.rate.window_s}',
            "RateLimit": f'"{self.scope}";r={allowance.left};t={reset_s}',
        }


def key_limit(identity: Identity) -> RateLimit | None:
    """Return the limit of requests with this key, if there is one."""
    rate: Rate | None = identity.rate or settings.RUNQY_RATE_LIMIT
    return None if rate is None else RateLimit("key", identity.key_id or identity.role, rate)


def auth_failure_limit(address: str) -> RateLimit | None:
    """Return the limit of wrong keys from this client address, if there is one."""
    rate: Rate | None = settings.RUNQY_AUTH_FAILURE_LIMIT
    return None if rate is None else RateLimit("address", ip_prefix(address), rate)


def key_limit_exceeded(identity: Identity, wait_s: float | None) -> TooManyRequests:
    """Return the error for a key that exceeds its limit."""
    source = "its rate_limit" if identity.rate else "RUNQY_RATE_LIMIT"
    detail = f"This key is limited to {identity.rate or settings.RUNQY_RATE_LIMIT} ({source})."
    return TooManyRequests(detail, retry_after_s=math.ceil(wait_s or 1))


def auth_failure_limit_exceeded(wait_s: float) -> TooManyFailures:
    """Return the error for an address that has tried too many wrong keys."""
    rate = settings.RUNQY_AUTH_FAILURE_LIMIT
    detail = f"An address is limited to {rate} wrong keys (RUNQY_AUTH_FAILURE_LIMIT)."
    return TooManyFailures(detail, retry_after_s=math.ceil(wait_s))


def refused_allowance(wait_s: int) -> Allowance:
    """Return what is left to an address that was not counted, as if it had been: the response must not tell a match."""
    return Allowance(passes=False, left=0, wait_s=wait_s, reset_s=wait_s)


class ApiKeyThrottle(BaseThrottle):
    """Limit the requests of a key to its rate, or to RUNQY_RATE_LIMIT."""

    def __init__(self) -> None:
        self._wait_s: float | None = None

    def allow_request(self, request: Request, view: Any) -> bool:
        """Count the request, and note what is left for the response's headers."""
        limit = key_limit(cast(AuthenticatedRequest, request).auth)
        allowance = limit.acquire_blocking() if limit else None
        if limit is None or allowance is None:
            return True
        view.rate_limit_headers = limit.headers(allowance)
        self._wait_s = allowance.wait_s
        return allowance.passes

    def wait(self) -> float | None:
        return self._wait_s


class AuthFailureThrottle(BaseThrottle):
    """Limit the wrong keys from one client address to RUNQY_AUTH_FAILURE_LIMIT.

    The authentication class counts failures only: a valid key is never counted against its address, so that a guesser
    behind the same address cannot lock it out. A short key of the environment is the exception: beyond the limit it is
    not compared at all, else it could be guessed. One that matches is refused too if the limit has been reached since:
    of many guesses sent at once, all find the address within its limit.
    """

    def refuse_guess(self, request: Request) -> None:
        """Raise TooManyFailures for an address beyond its limit, before and after a short key is compared."""
        limit = auth_failure_limit(request.META.get("REMOTE_ADDR", ""))
        if limit and (wait_s := limit.wait_blocking_s()):
            _show_headers(request, limit.headers(refused_allowance(wait_s)))
            raise auth_failure_limit_exceeded(wait_s)

    def record_failure(self, request: Request) -> None:
        """Count a wrong key. Raises TooManyFailures."""
        limit = auth_failure_limit(request.META.get("REMOTE_ADDR", ""))
        allowance = limit.acquire_blocking() if limit else None
        if limit is None or allowance is None:
            return
        _show_headers(request, limit.headers(allowance))
        if not allowance.passes:
            raise auth_failure_limit_exceeded(allowance.wait_s)


def _show_headers(request: Request, headers: dict[str, str]) -> None:
    """Note what the response says about rate limits."""
    if view := (request.parser_context or {}).get("view"):
        view.rate_limit_headers = headers


def record_login_attempt(address: str) -> None:
    """Count a password tried in the admin, right or wrong, against its client address. Raises TooManyFailures."""
    rate: Rate | None = settings.RUNQY_AUTH_FAILURE_LIMIT
    if rate is None:
        return
    allowance = RateLimit("login", ip_prefix(address), rate).acquire_blocking()
    if allowance is not None and not allowance.passes:
        raise TooManyFailures(retry_after_s=allowance.wait_s)


def ip_prefix(address: str) -> str:
    """Return what counts as one client: an IPv4 address, or the /64 network of an IPv6 address, else `none`."""
    try:
        parsed = parse_address(address)
    except ValueError:
        return "none"
    if parsed.version == 4:
        return str(parsed)
    return str(ip_network((int(parsed), 64), strict=False).network_address)
