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
"""How many characters of a key are stored and shown, to identify it."""


KEY_NAME = r"(?! *$)[^\x00-\x1f\x7f]+"
"""What a key may be called, without anchors: a line that is not blank, of at most `MAX_NAME_LENGTH` characters."""
MAX_NAME_LENGTH = 100
KEY_NAME_RULE = f"Must be one line of at most {MAX_NAME_LENGTH} characters, and not blank."
MAX_QUEUES = 1000
MAX_VAULTS = 1000
MIN_KEY_LENGTH = 32
"""A key from the environment that is shorter than this can be guessed."""


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
"""Settings with a key of the environment, and its role; the most privileged last, so that it wins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The client that an accepted key identifies."""

    role: Role
    name: str
    queues: frozenset[str] | None = None
    """Names of the queues that this identity is limited to; None: all."""
    rate: Rate | None = None
    """Its rate limit; None: RUNQY_RATE_LIMIT."""
    key_id: str = ""
    """Primary key of the key's row; empty for keys from the environment."""
    vaults: frozenset[str] | None = None
    """Names of the vaults that workers with this key may use; None: all."""
    allow_shared_redis: bool = False
    """Whether workers get shared Redis credentials although the key is limited to queues."""

    @property
    def may_share_redis(self) -> bool:
        """Return whether workers may get shared Redis credentials, which reach all queues."""
        return self.queues is None or self.allow_shared_redis

    @property
    def owner(self) -> str:
        """Return the name of the key in Redis: the id of its row, or the role of a key from the environment."""
        return f"key:{self.key_id}" if self.key_id else f"environment:{self.role}"


def generate_key() -> str:
    """Return a random key with prefix `rq_` and a checksum, so that secret scanners recognise it."""
    random = "".join(secrets.choice(_DIGITS) for _ in range(_RANDOM))
    return f"{_PREFIX}{random}{_checksum(random)}"


def has_key_format(text: str) -> bool:
    """Return whether a string has the prefix, the length and the characters of our keys."""
    return _KEY.fullmatch(text) is not None


def is_key(text: str) -> bool:
    """Return whether a string has the format of our keys, with a valid checksum."""
    return has_key_format(text) and _checksum(text[len(_PREFIX) : -_CHECKED]) == text[-_CHECKED:]


def key_digest(key: str) -> str:
    """Return the hash that is stored and compared. Keys are random, so a fast hash is enough."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _checksum(random: str) -> str:
    """Return the checksum of the random part, six base-62 digits."""
    number = zlib.crc32(random.encode())
    digits = []
    for _ in range(_CHECKED):
        number, rest = divmod(number, len(_DIGITS))
        digits.append(_DIGITS[rest])
    return "".join(reversed(digits))
