"""The published form of an API key: its hash and limits, never the key itself."""

from datetime import datetime

import msgspec

from runqy.accounts.models import ApiKey
from runqy.api_keys import Role


class PublishedKey(msgspec.Struct, frozen=True, kw_only=True):
    """A published key. Revoked keys are not published."""

    digest: str
    role: Role
    name: str
    queues: tuple[str, ...]
    expires_at: datetime | None
    vaults: tuple[str, ...]
    rate_limit: str
    allow_shared_redis: bool

    @classmethod
    def of(cls, key: ApiKey) -> "PublishedKey":
        return cls(
            digest=key.digest,
            role=Role(key.role),
            name=key.name,
            queues=tuple(key.queues),
            expires_at=key.expires_at,
            vaults=tuple(key.vaults),
            rate_limit=key.rate_limit,
            allow_shared_redis=key.allow_shared_redis,
        )
