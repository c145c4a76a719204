"""API keys: their format, their roles, and the identity of a request."""

import hashlib
import re
import secrets
import zlib
from dataclasses import dataclass
from enum import StrEnum

from runqy.broker.rate_limit import Rate

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_PREFIX = "rq_"
_RANDOM, _CHECKED = 32, 6
_KEY = re.compile(f"{_PREFIX}[0-9A-Za-z]{{{_RANDOM + _CHECKED}}}")
PREFIX_LENGTH = 10
"""The length of the beginning of a key that is stored and shown, to identify it."""


KEY_NAME = r"(?! *$)[^\x00-\x1f\x7f]+"
"""The pattern of a key's name, without anchors: one line, not blank. `MAX_NAME_LENGTH` limits its length."""
MAX_NAME_LENGTH = 100
KEY_NAME_RULE = f"Must be one line of at most {MAX_NAME_LENGTH} characters, and not blank."
MAX_QUEUES = 1000
MAX_VAULTS = 1000
MIN_KEY_LENGTH = 32
"""A shorter key from the environment may be guessed."""


class Role(StrEnum):
    """The rights of a key."""

    ADMIN = "admin"  # everything
    WORKER = "worker"  # registers workers
    CLIENT = "client"  # enqueues, reads, cancels and deletes tasks
    METRICS = "metrics"  # reads /metrics


ENVIRONMENT_KEYS = {
    "RUNQY_METRICS_TOKEN": Role.METRICS,
    "RUNQY_CLIENT_API_KEY": Role.CLIENT,
    "RUNQY_WORKER_API_KEY": Role.WORKER,
    "RUNQY_API_KEY": Role.ADMIN,
}
"""Settings with keys from the environment, and their roles. The last one wins, so the most privileged is last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The client that a valid key identifies."""

    role: Role
    name: str
    queues: frozenset[str] | None = None
    """Names of the queues that the key is limited to; None for all queues."""
    rate: Rate | None = None
    """The key's own rate limit; None if RUNQY_RATE_LIMIT applies."""
    key_id: str = ""
    """The primary key of its row; empty for keys from the environment."""
    vaults: frozenset[str] | None = None
    """Names of the vaults that workers with this key may use; None for all vaults."""
    allow_shared_redis: bool = False
    """Whether workers may get shared Redis credentials even if the key is limited to queues."""

    @property
    def may_share_redis(self) -> bool:
        """Return whether workers may get shared Redis credentials. These give access to all queues."""
        return self.queues is None or self.allow_shared_redis

    @property
    def owner(self) -> str:
        """Return the key's name in Redis: the id of its row, or the role of a key from the environment."""
        return f"key:{self.key_id}" if self.key_id else f"environment:{self.role}"


def generate_key() -> str:
    """Return a random key. It has the prefix `rq_` and a checksum, by which secret scanners recognise it."""
    random = "".join(secrets.choice(_DIGITS) for _ in range(_RANDOM))
    return f"{_PREFIX}{random}{_checksum(random)}"


def has_key_format(text: str) -> bool:
    """Return whether a string has the prefix, length and characters of our keys. The checksum is not verified."""
    return _KEY.fullmatch(text) is not None


def is_key(text: str) -> bool:
    """Return whether a string has the format of our keys and a valid checksum."""
    return has_key_format(text) and _checksum(text[len(_PREFIX) : -_CHECKED]) == text[-_CHECKED:]


def key_digest(key: str) -> str:
    """Return the hash that is stored and compared."""
    # Keys are random, so a fast hash is enough.
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _checksum(random: str) -> str:
    """Return the CRC-32 of the random part as six base-62 digits."""
    number = zlib.crc32(random.encode())
    digits = []
    for _ in range(_CHECKED):
        number, rest = divmod(number, len(_DIGITS))
        digits.append(_DIGITS[rest])
    return "".join(reversed(digits))
