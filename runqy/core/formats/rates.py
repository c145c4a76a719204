"""Parse rates: a number of requests per second, minute or hour."""

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rate:
    """A number of requests in a time window."""

    limit: int
    window_s: int

    def __str__(self) -> str:
        return f"{self.limit} in {self.window_s} s"


WINDOWS_S = {"s": 1, "m": 60, "h": 3600}


RATE = r"0*([1-9][0-9]{0,4}|100000)/[smh]"
"""A pattern without anchors: at most 100,000 requests per second, minute or hour."""
RATE_EXAMPLES = "a rate such as 50/s, 600/m or 10000/h"


def parse_rate(text: str) -> Rate:
    """Parse a number of requests per second, minute or hour: `600/m`. Raise ValueError."""
    if not re.fullmatch(RATE, text):
        raise ValueError(f"{text!r} is not {RATE_EXAMPLES}")
    limit, _, unit = text.partition("/")
    return Rate(int(limit), WINDOWS_S[unit])
