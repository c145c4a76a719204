"""Bounds how many requests a key may send, and how many wrong keys an address may try.

A valid key is never counted against its address, so that whoever guesses beside it does not lock it out.
"""

from ipaddress import ip_address, ip_network

import structlog
from django.conf import settings
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from runqy.accounts.identity import Identity
from runqy.broker.rates import Allowance, Rate, spend
from runqy.connection import get_broker
from runqy.errors import BrokerUnavailable, TooManyFailures, TooManyRequests

log = structlog.get_logger(__name__)

_TOLD = "runqy.rate_limit"


def spend_request(request: HttpRequest, identity: Identity) -> None:
    """Count a request against its key's rate, if there is one. Raises TooManyRequests."""
    rate: Rate | None = settings.RUNQY_RATE_LIMIT
    if rate is None:
        return
    allowance = _spend(request, "key", identity.key_id or identity.role, rate)
    if allowance is not None and not allowance.passes:
        raise TooManyRequests(f"This key may send {rate} (RUNQY_RATE_LIMIT).", retry_after_s=allowance.wait_s)


def note_failure(request: HttpRequest) -> None:
    """Count a wrong key against the address that it came from. Raises TooManyFailures."""
    rate: Rate | None = settings.RUNQY_AUTH_FAILURE_LIMIT
    if rate is None:
        return
    allowance = _spend(request, "address", neighbourhood(request.META.get("REMOTE_ADDR", "")), rate)
    if allowance is not None and not allowance.passes:
        detail = f"An address may try {rate} wrong keys (RUNQY_AUTH_FAILURE_LIMIT)."
        raise TooManyFailures(detail, retry_after_s=allowance.wait_s)


def spend_login(request: HttpRequest) -> None:
    """Count somebody who tries a password against the address that it came from. Raises TooManyFailures.

    A right one is counted too: whether it is can be known only by trying it, which is what is bounded here.
    """
    rate: Rate | None = settings.RUNQY_AUTH_FAILURE_LIMIT
    if rate is None:
        return
    allowance = _spend(request, "login", neighbourhood(request.META.get("REMOTE_ADDR", "")), rate)
    if allowance is not None and not allowance.passes:
        raise TooManyFailures(retry_after_s=allowance.wait_s)


def tell_allowance(request: HttpRequest, response: HttpResponseBase) -> None:
    """Say in an answer what is left (draft-ietf-httpapi-ratelimit-headers-10), if something was counted."""
    told = request.META.get(_TOLD)
    if told is not None:
        response["RateLimit-Policy"], response["RateLimit"] = told


def _spend(request: HttpRequest, kind: str, subject: str, rate: Rate) -> Allowance | None:
    """Count a request; None while Redis is away, when nobody is refused for what cannot be counted."""
    broker = get_broker()
    try:
        allowance = broker.run(spend(f"{kind}:{subject}", rate, now_ns=broker.now_ns()))
    except BrokerUnavailable as error:
        log.warning("request_not_counted", error=error.detail)
        return None
    request.META[_TOLD] = (
        f'"{kind}";q={rate.most};w={rate.window_s}',
        f'"{kind}";r={allowance.left};t={allowance.wait_s or allowance.reset_s}',
    )
    return allowance


def neighbourhood(text: str) -> str:
    """Return what counts as one address: an IPv6 host has a whole /64 to send from; that of a Unix socket is empty."""
    try:
        address = ip_address(text)
    except ValueError:
        return "none"
    return text if address.version == 4 else str(ip_network((int(address), 64), strict=False).network_address)
