"""What administrators send about API keys."""

from datetime import datetime
from typing import Annotated

import msgspec

from runqy.accounts.identity import Role

KeyId = Annotated[int, msgspec.Meta(ge=0, lt=10**18)]
"""Where a list of keys goes on."""


class CreateKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /api/keys`; a misspelled limit must not become a key without one."""

    name: str
    role: Role = Role.CLIENT
    queues: tuple[str, ...] = ()
    expires_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
