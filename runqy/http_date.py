"""Spells the date of answers, once a second instead of once an answer."""

import time
from email.utils import formatdate
from functools import lru_cache


def http_date(timestamp: float | None = None) -> str:
    """Return a Unix time, or now, as HTTP spells it (RFC 9110, 5.6.7). Takes the place of gunicorn's own."""
    return _spelled(int(time.time() if timestamp is None else timestamp))


@lru_cache(maxsize=4)
def _spelled(seconds: int) -> str:
    return formatdate(seconds, usegmt=True)
