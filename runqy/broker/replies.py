"""Interpret replies of Redis: errors become ours, and what workers can write is validated."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redis import exceptions as redis_errors

from runqy.errors import BrokerCommandRefused, BrokerFull, BrokerRefused, BrokerUnavailable, RunqyError

MAX_DIGITS = 20
"""Those of 64 bits. Python refuses to parse thousands of digits, which a worker could write."""


def read_number(text: bytes | str | None) -> int | None:
    """Return a non-negative 64-bit integer; None for anything else."""
    if text is None or len(text) > MAX_DIGITS or not (text.isascii() and text.isdigit()):
        return None
    return int(text)


_SECONDS_BELOW = 10**12  # in s the year 33658, in ns 17 minutes after 1970


def read_time_ns(text: bytes | str | None) -> int | None:
    """Return a time in Unix ns; None if it is missing, 0 or invalid.

    Go's runqy-worker writes seconds into fields where asynq writes nanoseconds. `in_ns.lua` has the same rule.
    """
    time = read_number(text)
    return time * 10**9 if time and time < _SECONDS_BELOW else time or None


def read_score(score: bytes | str | None) -> int | None:
    """Return the score of a sorted set in whole units; None if it is missing or infinite."""
    number = float(score) if score else float("inf")
    return int(number) if abs(number) < 10**MAX_DIGITS else None


def replace_nul(text: str) -> str:
    """Replace NUL, which PostgreSQL refuses in a text."""
    return text.replace("\0", "\ufffd")


Reply = Any
"""Redis's reply to a command: bytes, int, None, a list of these, or a ResponseError. BrokerUnavailable without one."""


# With the error replies of a Redis that loads its data, fails over or moves slots.
_UNAVAILABLE = (
    redis_errors.ConnectionError,
    redis_errors.TimeoutError,
    redis_errors.BusyLoadingError,
    redis_errors.ClusterDownError,
    redis_errors.MasterDownError,
    redis_errors.ReadOnlyError,
    redis_errors.RedisClusterException,
    redis_errors.TryAgainError,
    redis_errors.InvalidResponse,
    OSError,
)


_TEMPORARY = ("BUSY ", "MISCONF ", "NOREPLICAS ")
"""Prefixes of temporary errors: another script runs for too long, the disk is full, or replicas are missing."""


REFUSED_ERRORS = (redis_errors.AuthenticationError, redis_errors.NoPermissionError)


REDIS_ERRORS = (*_UNAVAILABLE, redis_errors.ResponseError)
"""What redis-py raises about a connection or a command."""


class ReplyLost(BrokerUnavailable):
    """Redis cannot be reached."""

    # The reply to a command that was sent: it may have run. With other errors of the connection it has not.


@contextmanager
def translate_errors() -> Iterator[None]:
    """Raise redis-py's errors about the connection as runqy's."""
    try:
        yield
    except REDIS_ERRORS as error:
        raise translate_error(error) from error


def translate_error(error: Exception) -> RunqyError:
    # First: redis-py derives AuthenticationError from ConnectionError.
    if isinstance(error, REFUSED_ERRORS):
        return BrokerRefused(reason=str(error))
    if isinstance(error, redis_errors.OutOfMemoryError):
        return BrokerFull()
    if isinstance(error, _UNAVAILABLE):
        return BrokerUnavailable(reason=str(error))
    if str(error).startswith(_TEMPORARY):
        return BrokerUnavailable("Redis cannot execute commands now.", reason=str(error))
    return BrokerCommandRefused(reason=str(error))


def read_error(reply: Exception) -> Exception:
    """Return the error of a command: ours, also for an error reply of Redis."""
    if not isinstance(reply, REDIS_ERRORS):
        return reply
    error = translate_error(reply)
    error.__cause__ = reply
    return error


def is_unavailable(reply: Reply) -> bool:
    """Return whether a command was not run because its server was unavailable, or does not accept it now."""
    return isinstance(reply, Exception) and isinstance(read_error(reply), BrokerUnavailable)


def check_reply(reply: Reply) -> Reply:
    if isinstance(reply, Exception):
        raise read_error(reply)
    return reply


def is_wrong_type(reply: Reply) -> bool:
    """Return whether a command, or one inside a script, met a key of another type."""
    return isinstance(reply, redis_errors.ResponseError) and str(reply).startswith("WRONGTYPE")
