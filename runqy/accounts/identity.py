"""Who sends a request, and the form of the keys that say so."""

import hashlib
import re
import secrets
import zlib
from dataclasses import dataclass
from enum import StrEnum

from runqy.broker.rates import Rate

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_PREFIX = "rq_"
_RANDOM, _CHECKED = 32, 6
_KEY = re.compile(f"{_PREFIX}[0-9A-Za-z]{{{_RANDOM + _CHECKED}}}")
SHOWN = 10
"""How much of a key the admin shows, to tell keys apart."""


NAME = r"^[^\x00-\x1f\x7f]*[^\x00-\x20\x7f][^\x00-\x1f\x7f]*$"
"""What a key may be called: a line that is not blank, of at most `LONGEST_NAME` characters."""
LONGEST_NAME = 100
QUEUE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
MOST_QUEUES = 1000
VAULT_NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
MOST_VAULTS = 1000
SHORTEST_KEY = 32
"""The least number of characters of a key of the environment that cannot be guessed."""
RATE = r"^([1-9][0-9]{0,5}/[smh])?$"
"""How often a key may send requests; `parse_rate` has the bounds."""


class Role(StrEnum):
    """What a key may do."""

    ADMIN = "admin"  # everything
    WORKER = "worker"  # registers workers
    CLIENT = "client"  # enqueues, reads, cancels and deletes tasks


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The owner of a key that was accepted."""

    role: Role
    name: str
    queues: frozenset[str] | None = None
    """Queues by their own names that this identity is limited to; None: all."""
    rate: Rate | None = None
    """How many requests it may send; None: as many as RUNQY_RATE_LIMIT says."""
    key_id: str = ""
    """The row that describes the key; empty for keys from the environment."""
    vaults: frozenset[str] | None = None
    """Vaults that workers with this key may be given values of; None: all."""

    @property
    def owner(self) -> str:
        """Return what names the key in Redis: the id of its row, or the role of a key from the environment."""
        return f"key:{self.key_id}" if self.key_id else f"environment:{self.role}"

    def may_use(self, queue: str) -> bool:
        """Tell whether a queue, by its own name, exists for this identity."""
        return self.queues is None or queue in self.queues


def new_key() -> str:
    """Return a random key, `rq_` and a checksum in it, so that scanners of leaked secrets recognise it."""
    random = "".join(secrets.choice(_DIGITS) for _ in range(_RANDOM))
    return f"{_PREFIX}{random}{_checksum(random)}"


def is_key(text: str) -> bool:
    """Tell whether a text has the form of our keys, checksum included."""
    return _KEY.fullmatch(text) is not None and _checksum(text[len(_PREFIX) : -_CHECKED]) == text[-_CHECKED:]


def key_digest(key: str) -> str:
    """Return what is stored and compared instead of a key. Keys are random, so a fast hash is enough."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _checksum(random: str) -> str:
    """Return six digits that a program can recompute."""
    number = zlib.crc32(random.encode())
    digits = []
    for _ in range(_CHECKED):
        number, rest = divmod(number, len(_DIGITS))
        digits.append(_DIGITS[rest])
    return "".join(reversed(digits))
