"""What is published about a key: what it takes to recognise it, never the key."""

from datetime import datetime

import msgspec

from runqy.accounts.identity import Role
from runqy.accounts.models import ApiKey


class PublishedKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key that may be used until it expires; a revoked one is not published."""

    digest: str
    role: Role
    name: str
    queues: tuple[str, ...]
    expires_at: datetime | None
    vaults: tuple[str, ...] = ()
    rate_limit: str = ""

    @classmethod
    def of(cls, key: ApiKey) -> "PublishedKey":
        """Return what is published about a row."""
        return cls(
            digest=key.digest,
            role=Role(key.role),
            name=key.name,
            queues=tuple(key.queues),
            expires_at=key.expires_at,
            vaults=tuple(key.vaults),
            rate_limit=key.rate_limit,
        )
