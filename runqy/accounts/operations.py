"""Creates and revokes keys."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec
from django.utils import timezone

from runqy.accounts.identity import SHOWN, Role, key_digest, new_key
from runqy.accounts.models import ApiKey
from runqy.accounts.published import PublishedKey
from runqy.audit.operations import record
from runqy.errors import ApiKeyAlreadyRevoked, ApiKeyInvalid, ApiKeyNotFound
from runqy.publication.documents import Kind
from runqy.publication.operations import configuration_change

__all__ = ["CreatedKey", "create_api_key", "revoke_api_key"]


@dataclass(frozen=True, slots=True)
class CreatedKey:
    """A new key; what it is can be told only now."""

    plain: str
    row: ApiKey

    def __repr__(self) -> str:
        """Show which, never what: a key must not reach a log."""
        return f"<CreatedKey {self.row}>"


def create_api_key(
    *, name: str, role: str, queues: Sequence[str] = (), expires_at: datetime | None = None
) -> CreatedKey:
    """Create a key and publish what it takes to recognise it. Raises ApiKeyInvalid."""
    if not name.strip():
        raise ApiKeyInvalid("A key needs a name that says who uses it.")
    if role not in list(Role):
        raise ApiKeyInvalid(f"No role {role!r}: it is one of {', '.join(Role)}.")
    if expires_at is not None and expires_at <= timezone.now():
        raise ApiKeyInvalid("A key cannot expire in the past.")
    if isinstance(queues, str) or not all(isinstance(queue, str) and queue for queue in queues):
        raise ApiKeyInvalid("The queues of a key are a list of names.")
    plain = new_key()
    with configuration_change() as change:
        row = ApiKey.objects.create(
            name=name.strip(),
            role=role,
            queues=sorted(set(queues)),
            digest=key_digest(plain),
            prefix=plain[:SHOWN],
            expires_at=expires_at,
        )
        change.put(Kind.API_KEY, str(row.pk), msgspec.json.encode(PublishedKey.of(row)))
        stated = {name: (None, getattr(row, name)) for name in ("name", "role", "queues", "expires_at")}
        record(action="api_key.created", object_kind="api_key", object_name=_named(row), changes=stated)
    return CreatedKey(plain, row)


def revoke_api_key(*, key_id: int) -> ApiKey:
    """End the validity of a key, for good. Raises ApiKeyNotFound, ApiKeyAlreadyRevoked."""
    with configuration_change() as change:
        revoked = ApiKey.objects.filter(pk=key_id, revoked_at=None).update(revoked_at=timezone.now())
        row = ApiKey.objects.filter(pk=key_id).first()
        if row is None:
            raise ApiKeyNotFound
        if not revoked:
            raise ApiKeyAlreadyRevoked
        change.remove(Kind.API_KEY, str(row.pk))
        ended = {"revoked_at": (None, row.revoked_at)}
        record(action="api_key.revoked", object_kind="api_key", object_name=_named(row), changes=ended)
    return row


def _named(row: ApiKey) -> str:
    """Return how the audit calls a key: names may stand twice."""
    return f"{row.pk} {row.name}"
