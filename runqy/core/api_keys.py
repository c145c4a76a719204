"""The roles of API keys, and the identity of a request."""

from dataclasses import dataclass
from enum import StrEnum

from runqy.core.formats.durations import Rate

MIN_KEY_LENGTH = 32
"""A shorter key from the environment may be guessed."""


class Role(StrEnum):
    """The rights of a key."""

    ADMIN = "admin"  # everything
    WORKER = "worker"  # registers workers
    CLIENT = "client"  # enqueues, reads, cancels and deletes tasks
    METRICS = "metrics"  # reads /metrics
    # What the roles of users with the same names do in the admin:
    VIEWER = "viewer"
    OPERATOR = "operator"
    CONFIGURATOR = "configurator"


STAFF_ROLES = frozenset({Role.VIEWER, Role.OPERATOR, Role.CONFIGURATOR})
"""Roles of keys for people who are not administrators."""


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
