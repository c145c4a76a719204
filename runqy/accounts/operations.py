"""Create and revoke API keys."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec
from django.db import transaction
from django.utils import timezone

from runqy.accounts.key_documents import PublishedKey
from runqy.accounts.models import ApiKey
from runqy.accounts.queries import list_accepted_descendants
from runqy.accounts.worker_credentials import remove_users_of_keys
from runqy.api_keys import (
    MAX_NAME_LENGTH,
    MAX_QUEUES,
    MAX_VAULTS,
    NAME_PATTERN,
    PREFIX_LENGTH,
    QUEUE_NAME_PATTERN,
    VAULT_NAME_PATTERN,
    Role,
    generate_key,
    key_digest,
)
from runqy.audit.actors import ActorKind, current_actor
from runqy.audit.operations import record
from runqy.broker.rate_limit import parse_rate
from runqy.config_sync.documents import DocumentKind
from runqy.config_sync.operations import Change, configuration_change
from runqy.errors import ApiKeyAlreadyRevoked, ApiKeyInvalid, ApiKeyNotFound

__all__ = ["CreatedKey", "RevokedKey", "audited_name", "create_api_key", "find_key_errors", "revoke_api_key"]

_LATEST = datetime(9999, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class CreatedKey:
    """A new key, in plain text for the only time."""

    plain: str
    row: ApiKey

    def __repr__(self) -> str:
        """Omit the key: it must not reach a log."""
        return f"<CreatedKey {self.row}>"


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokedKey:
    """A revoked key, and the accepted keys that it created, directly or indirectly."""

    row: ApiKey
    revoked_descendants: Sequence[ApiKey]
    """Those that were revoked with it."""
    accepted_descendants: Sequence[ApiKey]
    """Those that are still accepted."""


def create_api_key(  # noqa: PLR0913 (what describes a key)
    *,
    name: str,
    role: str,
    queues: Sequence[str] = (),
    vaults: Sequence[str] = (),
    expires_at: datetime | None = None,
    rate_limit: str = "",
) -> CreatedKey:
    """Create a key and publish its hash. Raise ApiKeyInvalid."""
    found = find_key_errors(
        name=name, role=role, queues=queues, vaults=vaults, expires_at=expires_at, rate_limit=rate_limit
    )
    if errors := [f"{field}: {message}" for field, message in found]:
        raise ApiKeyInvalid(errors=errors)
    plain = generate_key()
    with configuration_change() as change:
        row = ApiKey.objects.create(
            name=name.strip(" "),
            role=role,
            queues=sorted(set(queues)),
            vaults=sorted(set(vaults)),
            digest=key_digest(plain),
            prefix=plain[:PREFIX_LENGTH],
            expires_at=expires_at,
            rate_limit=rate_limit,
            **_creator(),
        )
        change.put(DocumentKind.API_KEY, str(row.pk), msgspec.json.encode(PublishedKey.of(row)))
        columns = ("name", "role", "queues", "vaults", "expires_at", *(["rate_limit"] if rate_limit else []))
        changes = {column: (None, getattr(row, column)) for column in columns}
        record(action="api_key.created", object_kind="api_key", object_name=audited_name(row), changes=changes)
    return CreatedKey(plain, row)


def revoke_api_key(*, key_id: int, with_descendants: bool = False) -> RevokedKey:
    """Revoke a key for good; `with_descendants` also the keys that it created, directly or indirectly.

    With descendants, an already revoked key is not an error as long as one of them can be revoked.
    Raise ApiKeyNotFound, ApiKeyAlreadyRevoked.
    """
    with configuration_change() as change:
        row = ApiKey.objects.filter(pk=key_id).first()
        if row is None:
            raise ApiKeyNotFound
        descendants = list_accepted_descendants([key_id])
        due = [row] if row.revoked_at is None else []
        if with_descendants:
            due += descendants
        if not due:
            raise ApiKeyAlreadyRevoked
        for key in due:
            _revoke(change, key)
    # after the revocation was published
    transaction.on_commit(partial(remove_users_of_keys, [str(key.pk) for key in due]))
    return RevokedKey(
        row=row,
        revoked_descendants=descendants if with_descendants else [],
        accepted_descendants=[] if with_descendants else descendants,
    )


def _revoke(change: Change, row: ApiKey) -> None:
    """Revoke a key inside an open change, and record it."""
    row.revoked_at = timezone.now()
    row.save(update_fields=["revoked_at"])
    change.remove(DocumentKind.API_KEY, str(row.pk))
    changes = {"revoked_at": (None, row.revoked_at)}
    record(action="api_key.revoked", object_kind="api_key", object_name=audited_name(row), changes=changes)


def _creator() -> Mapping[str, Any]:
    """Return the columns of a new key that name its creator."""
    actor = current_actor()
    key_id = int(actor.id) if actor.kind is ActorKind.KEY and actor.id else None
    return {"created_by_kind": actor.kind.value, "created_by": actor.name[:300], "created_by_key_id": key_id}


def find_key_errors(  # noqa: PLR0913 (what describes a key)
    *,
    name: str,
    role: str,
    queues: Sequence[str],
    expires_at: datetime | None,
    vaults: Sequence[str] = (),
    rate_limit: str = "",
) -> Iterator[tuple[str, str]]:
    """Yield the field and the message of each error in the description of a key."""
    if len(name) > MAX_NAME_LENGTH or not _matches(NAME_PATTERN, name):
        yield "name", f"must be one line of at most {MAX_NAME_LENGTH} characters."
    if role not in list(Role):
        yield "role", f"must be one of {', '.join(Role)}."
    if (
        isinstance(queues, str)
        or len(queues) > MAX_QUEUES
        or not all(_matches(QUEUE_NAME_PATTERN, queue) for queue in queues)
    ):
        yield "queues", f"must be a list of at most {MAX_QUEUES} queue names."
    elif queues and role == Role.METRICS:
        yield "queues", "keys with the role metrics cannot be limited to queues."
    if (
        isinstance(vaults, str)
        or len(vaults) > MAX_VAULTS
        or not all(_matches(VAULT_NAME_PATTERN, vault) for vault in vaults)
    ):
        yield "vaults", f"must be a list of at most {MAX_VAULTS} vault names."
    elif vaults and role != Role.WORKER:
        yield "vaults", "only keys with the role worker can be limited to vaults."
    if expires_at is not None and not timezone.now() < expires_at < _LATEST:
        yield "expires_at", "must be in the future, and before the year 9999."
    if rate_limit and (error := _find_rate_error(rate_limit)):
        yield "rate_limit", error


def _find_rate_error(text: str) -> str | None:
    try:
        parse_rate(text)
    except ValueError as error:
        return f"{error}."
    return None


def audited_name(row: ApiKey) -> str:
    """Return the name of a key in the audit; names alone are not unique."""
    return f"{row.pk} {row.name}"


def _matches(pattern: str, name: object) -> bool:
    return isinstance(name, str) and re.fullmatch(pattern, name) is not None
