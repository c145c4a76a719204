"""Limit the rate of requests across all processes."""

from collections.abc import Sequence
from dataclasses import dataclass

from runqy.broker import keys
from runqy.broker.replies import Reply
from runqy.broker.request import Request
from runqy.broker.scripts import command, script
from runqy.core.formats.durations import Rate

_US = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimitStatus:
    """The outcome of counting a request against a rate."""

    is_allowed: bool
    remaining: int
    wait_s: int
    """Seconds until the next request is allowed, rounded up; 0: now."""
    reset_s: int
    """Seconds until the full allowance is restored, rounded up."""


def acquire(subject: str, rate: Rate, *, now_ns: int) -> Request[RateLimitStatus]:
    """Count a request of a subject, if the rate allows it."""
    call = script("rate_limit")(
        rate=keys.rate(subject), now_us=now_ns // 1000, window_us=rate.window_s * _US, limit=rate.limit
    )
    return Request((call,), _parse)


def read_wait(subject: str, rate: Rate, *, now_ns: int) -> Request[int]:
    """Return the seconds until a subject's next request is allowed, rounded up, without counting one; 0: now."""
    each_us = rate.window_s * _US // rate.limit
    window_us = each_us * rate.limit

    def parse(replies: Sequence[Reply]) -> int:
        # The key holds the time at which the full allowance is restored (GCRA, as in rate_limit.lua).
        spent_us = min(max(int(replies[0] or 0) - now_ns // 1000, 0), window_us)
        return -(-max(spent_us + each_us - window_us, 0) // _US)

    key = keys.rate(subject)
    return Request((command("GET", key, key=key),), parse)


def _parse(replies: Sequence[Reply]) -> RateLimitStatus:
    is_allowed, remaining, wait_us, reset_us = (int(number) for number in replies[0])
    return RateLimitStatus(
        is_allowed=bool(is_allowed), remaining=remaining, wait_s=-(-wait_us // _US), reset_s=-(-reset_us // _US)
    )
