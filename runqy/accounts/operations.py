"""Creates and revokes keys."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec
from django.db import transaction
from django.utils import timezone

from runqy.accounts.identity import (
    LONGEST_NAME,
    MOST_QUEUES,
    MOST_VAULTS,
    NAME,
    QUEUE_NAME,
    SHOWN,
    VAULT_NAME,
    Role,
    key_digest,
    new_key,
)
from runqy.accounts.models import ApiKey
from runqy.accounts.published import PublishedKey
from runqy.accounts.queries import list_accepted_descendants
from runqy.accounts.redis_users import remove_users_of_keys
from runqy.audit.actors import ActorKind, current_actor
from runqy.audit.operations import record
from runqy.broker.rates import parse_rate
from runqy.errors import ApiKeyAlreadyRevoked, ApiKeyInvalid, ApiKeyNotFound
from runqy.publication.documents import Kind
from runqy.publication.operations import Change, configuration_change

__all__ = ["CreatedKey", "RevokedKey", "audited_name", "create_api_key", "key_problems", "revoke_api_key"]

_LATEST = datetime(9999, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class CreatedKey:
    """A new key; what it is can be told only now."""

    plain: str
    row: ApiKey

    def __repr__(self) -> str:
        """Show which, never what: a key must not reach a log."""
        return f"<CreatedKey {self.row}>"


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokedKey:
    """A revoked key, and the accepted keys that it created, or that those created."""

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
    """Create a key and publish what it takes to recognise it. Raises ApiKeyInvalid."""
    problems = key_problems(
        name=name, role=role, queues=queues, vaults=vaults, expires_at=expires_at, rate_limit=rate_limit
    )
    if errors := [f"{field}: {sentence}" for field, sentence in problems]:
        raise ApiKeyInvalid(errors=errors)
    plain = new_key()
    with configuration_change() as change:
        row = ApiKey.objects.create(
            name=name.strip(" "),
            role=role,
            queues=sorted(set(queues)),
            vaults=sorted(set(vaults)),
            digest=key_digest(plain),
            prefix=plain[:SHOWN],
            expires_at=expires_at,
            rate_limit=rate_limit,
            **_creator(),
        )
        change.put(Kind.API_KEY, str(row.pk), msgspec.json.encode(PublishedKey.of(row)))
        columns = ("name", "role", "queues", "vaults", "expires_at", *(["rate_limit"] if rate_limit else []))
        stated = {column: (None, getattr(row, column)) for column in columns}
        record(action="api_key.created", object_kind="api_key", object_name=audited_name(row), changes=stated)
    return CreatedKey(plain, row)


def revoke_api_key(*, key_id: int, with_descendants: bool = False) -> RevokedKey:
    """End the validity of a key, for good; `with_descendants` also that of the keys it created, and those created.

    With descendants, a key that was revoked before is no error as long as there is one to revoke.
    Raises ApiKeyNotFound, ApiKeyAlreadyRevoked.
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
    # after the keys' end was published
    transaction.on_commit(partial(remove_users_of_keys, [str(key.pk) for key in due]))
    return RevokedKey(
        row=row,
        revoked_descendants=descendants if with_descendants else [],
        accepted_descendants=[] if with_descendants else descendants,
    )


def _revoke(change: Change, row: ApiKey) -> None:
    """Revoke a key in an open change, and record it."""
    row.revoked_at = timezone.now()
    row.save(update_fields=["revoked_at"])
    change.remove(Kind.API_KEY, str(row.pk))
    ended = {"revoked_at": (None, row.revoked_at)}
    record(action="api_key.revoked", object_kind="api_key", object_name=audited_name(row), changes=ended)


def _creator() -> Mapping[str, Any]:
    """Return the columns of a new key that name the actor."""
    actor = current_actor()
    key_id = int(actor.id) if actor.kind is ActorKind.KEY and actor.id else None
    return {"created_by_kind": actor.kind.value, "created_by": actor.name[:300], "created_by_key_id": key_id}


def key_problems(  # noqa: PLR0913 (what describes a key)
    *,
    name: str,
    role: str,
    queues: Sequence[str],
    expires_at: datetime | None,
    vaults: Sequence[str] = (),
    rate_limit: str = "",
) -> Iterator[tuple[str, str]]:
    """Give the field and a sentence for each thing that is wrong with the description of a key."""
    if len(name) > LONGEST_NAME or not _fits(NAME, name):
        yield "name", f"it says who uses the key, in a line of at most {LONGEST_NAME} characters"
    if role not in list(Role):
        yield "role", f"it must be one of {', '.join(Role)}"
    if isinstance(queues, str) or len(queues) > MOST_QUEUES or not all(_fits(QUEUE_NAME, queue) for queue in queues):
        yield "queues", f"it must be a list of at most {MOST_QUEUES} names of queues"
    if isinstance(vaults, str) or len(vaults) > MOST_VAULTS or not all(_fits(VAULT_NAME, vault) for vault in vaults):
        yield "vaults", f"it must be a list of at most {MOST_VAULTS} names of vaults"
    elif vaults and role != Role.WORKER:
        yield "vaults", "only keys with the role worker are limited to vaults"
    if expires_at is not None and not timezone.now() < expires_at < _LATEST:
        yield "expires_at", "it is in the past, or after the year 9998"
    if rate_limit and (problem := _problem_of_rate(rate_limit)):
        yield "rate_limit", problem


def _problem_of_rate(text: str) -> str | None:
    """Return what is wrong with a rate, or None."""
    try:
        parse_rate(text)
    except ValueError as error:
        return str(error)
    return None


def audited_name(row: ApiKey) -> str:
    """Return how the audit calls a key: names may stand twice."""
    return f"{row.pk} {row.name}"


def _fits(pattern: str, name: object) -> bool:
    """Tell whether something is a text of a form."""
    return isinstance(name, str) and re.fullmatch(pattern, name) is not None
