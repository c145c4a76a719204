"""Counts requests against a rate, for all processes together."""

from collections.abc import Sequence
from dataclasses import dataclass

from runqy.broker import keys
from runqy.broker.links import Reply
from runqy.broker.operation import Request
from runqy.broker.scripts import command, script

_US = 1_000_000


@dataclass(frozen=True, slots=True)
class Rate:
    """How many requests may pass in how many seconds."""

    most: int
    window_s: int

    def __str__(self) -> str:
        """Spell it for people."""
        return f"{self.most} in {self.window_s} s"


WINDOWS_S = {"s": 1, "m": 60, "h": 3600}


def parse_rate(text: str) -> Rate:
    """Return a number of requests in a second, minute or hour: `600/m`. Raises ValueError."""
    most, _, unit = text.partition("/")
    if unit not in WINDOWS_S or not (most.isascii() and most.isdigit()) or not 1 <= int(most[:7]) <= 10**5:
        raise ValueError(f"{text!r} is not a rate such as 50/s, 600/m or 10000/h")
    return Rate(int(most), WINDOWS_S[unit])


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """What a rate left to the sender of a request."""

    passes: bool
    left: int
    wait_s: int
    """After which the next may pass, rounded up; 0: at once."""
    reset_s: int
    """After which all may pass again, rounded up."""


def spend(subject: str, rate: Rate, *, now_ns: int) -> Request[Allowance]:
    """Count a request of a subject, if it may pass."""
    call = script("spend")(
        rate=keys.rate(subject), now_us=now_ns // 1000, window_us=rate.window_s * _US, most=rate.most
    )
    return Request((call,), _parse)


def read_wait(subject: str, rate: Rate, *, now_ns: int) -> Request[int]:
    """Return after how many seconds, rounded up, a request of a subject may pass, 0: at once. Counts nothing."""
    each_us = rate.window_s * _US // rate.most
    window_us = each_us * rate.most

    def parse(replies: Sequence[Reply]) -> int:
        spent_us = min(max(int(replies[0] or 0) - now_ns // 1000, 0), window_us)
        return -(-max(spent_us + each_us - window_us, 0) // _US)

    key = keys.rate(subject)
    return Request((command("GET", key, key=key),), parse, is_repeatable=True)


def _parse(replies: Sequence[Reply]) -> Allowance:
    """Read the script's reply."""
    passes, left, wait_us, reset_us = (int(number) for number in replies[0])
    return Allowance(passes=bool(passes), left=left, wait_s=-(-wait_us // _US), reset_s=-(-reset_us // _US))
