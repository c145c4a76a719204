"""Creates and revokes keys."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import msgspec
from django.db import transaction
from django.utils import timezone

from runqy.accounts.identity import LONGEST_NAME, MOST_QUEUES, NAME, QUEUE_NAME, SHOWN, Role, key_digest, new_key
from runqy.accounts.models import ApiKey
from runqy.accounts.published import PublishedKey
from runqy.accounts.redis_users import remove_users_of_keys
from runqy.audit.operations import record
from runqy.errors import ApiKeyAlreadyRevoked, ApiKeyInvalid, ApiKeyNotFound
from runqy.publication.documents import Kind
from runqy.publication.operations import configuration_change

__all__ = ["CreatedKey", "audited_name", "create_api_key", "key_problems", "revoke_api_key"]

_LATEST = datetime(9999, 1, 1, tzinfo=UTC)


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
    problems = key_problems(name=name, role=role, queues=queues, expires_at=expires_at)
    if errors := [f"{field}: {sentence}" for field, sentence in problems]:
        raise ApiKeyInvalid(errors=errors)
    plain = new_key()
    with configuration_change() as change:
        row = ApiKey.objects.create(
            name=name.strip(" "),
            role=role,
            queues=sorted(set(queues)),
            digest=key_digest(plain),
            prefix=plain[:SHOWN],
            expires_at=expires_at,
        )
        change.put(Kind.API_KEY, str(row.pk), msgspec.json.encode(PublishedKey.of(row)))
        stated = {column: (None, getattr(row, column)) for column in ("name", "role", "queues", "expires_at")}
        record(action="api_key.created", object_kind="api_key", object_name=audited_name(row), changes=stated)
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
        record(action="api_key.revoked", object_kind="api_key", object_name=audited_name(row), changes=ended)
    transaction.on_commit(partial(remove_users_of_keys, [str(row.pk)]))  # after the key's end was published
    return row


def key_problems(
    *, name: str, role: str, queues: Sequence[str], expires_at: datetime | None
) -> Iterator[tuple[str, str]]:
    """Give the field and a sentence for each thing that is wrong with the description of a key."""
    if len(name) > LONGEST_NAME or not _fits(NAME, name):
        yield "name", f"it says who uses the key, in a line of at most {LONGEST_NAME} characters"
    if role not in list(Role):
        yield "role", f"it must be one of {', '.join(Role)}"
    if isinstance(queues, str) or len(queues) > MOST_QUEUES or not all(_fits(QUEUE_NAME, queue) for queue in queues):
        yield "queues", f"it must be a list of at most {MOST_QUEUES} names of queues"
    if expires_at is not None and not timezone.now() < expires_at < _LATEST:
        yield "expires_at", "it is in the past, or after the year 9998"


def audited_name(row: ApiKey) -> str:
    """Return how the audit calls a key: names may stand twice."""
    return f"{row.pk} {row.name}"


def _fits(pattern: str, name: object) -> bool:
    """Tell whether something is a text of a form."""
    return isinstance(name, str) and re.fullmatch(pattern, name) is not None
