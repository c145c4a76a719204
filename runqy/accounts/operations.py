"""Create and revoke API keys."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

import msgspec
from django.conf import settings
from django.db import transaction
from django.utils import timezone

from runqy.accounts.identities import PREFIX_LENGTH, PublishedKey, generate_key, key_digest
from runqy.accounts.models import ApiKey
from runqy.accounts.queries import list_accepted_descendants
from runqy.accounts.worker_credentials import remove_users_of_keys
from runqy.audit.actors import ActorKind, current_actor
from runqy.audit.operations import record
from runqy.broker.rate_limit import Rate, parse_rate
from runqy.config_sync.documents import DocumentKind
from runqy.config_sync.operations import Change, configuration_change
from runqy.database.model_errors import model_errors
from runqy.errors import ApiKeyAlreadyRevoked, ApiKeyInvalid, ApiKeyNotFound


@dataclass(frozen=True, slots=True)
class CreatedKey:
    """A new key. Only here it exists in plain text."""

    plain: str
    row: ApiKey

    def __repr__(self) -> str:
        # Without the key, which must not reach a log.
        return f"<CreatedKey {self.row}>"


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokedKey:
    """A revoked key, and the keys that it created, directly or indirectly."""

    row: ApiKey
    revoked_descendants: Sequence[ApiKey]
    """Keys that were revoked with it."""
    accepted_descendants: Sequence[ApiKey]
    """Keys that are still accepted."""


def create_api_key(  # noqa: PLR0913 (what describes a key)
    *,
    name: str,
    role: str,
    queues: Sequence[str] = (),
    vaults: Sequence[str] = (),
    expires_at: datetime | None = None,
    rate_limit: str = "",
    allow_shared_redis: bool = False,
) -> CreatedKey:
    """Create a key and publish its hash. Raise ApiKeyInvalid, also for limits beyond those of the key that creates
    it.
    """
    plain = generate_key()
    with configuration_change() as change:
        row = ApiKey(
            name=name.strip(" "),
            role=role,
            queues=_sort_names(queues),
            vaults=_sort_names(vaults),
            digest=key_digest(plain),
            prefix=plain[:PREFIX_LENGTH],
            expires_at=expires_at,
            rate_limit=rate_limit,
            allow_shared_redis=allow_shared_redis,
            **_creator(),
        )
        if errors := model_errors(row) or _limit_errors(row):
            raise ApiKeyInvalid(errors=errors)
        row.save()
        change.put(DocumentKind.API_KEY, str(row.pk), msgspec.json.encode(PublishedKey.of(row)))
        optional = [column for column in ("rate_limit", "allow_shared_redis") if getattr(row, column)]
        columns = ("name", "role", "queues", "vaults", "expires_at", *optional)
        changes = {column: (None, getattr(row, column)) for column in columns}
        record(action="api_key.created", object_kind="api_key", object_name=audited_name(row), changes=changes)
    return CreatedKey(plain, row)


def _limit_errors(row: ApiKey) -> list[str]:
    """Return which limits of the key that creates another one this other key would not have.

    Keys that are limited to queues create none.
    """
    creator = row.created_by_key
    if creator is None:
        return []
    errors = []
    if creator.expires_at and not (row.expires_at and row.expires_at <= creator.expires_at):
        latest = creator.expires_at.isoformat().replace("+00:00", "Z")
        errors.append(f"expires_at: The key that creates it expires at {latest}; give this time or an earlier one.")
    if creator.rate_limit:
        allowed, rate = parse_rate(creator.rate_limit), _effective_rate(row)
        if rate is None or rate.limit * allowed.window_s > allowed.limit * rate.window_s:
            limited = f"The key that creates it is limited to {creator.rate_limit}"
            errors.append(f"rate_limit: {limited}; give this rate or a lower one.")
    return errors


def _effective_rate(row: ApiKey) -> Rate | None:
    """Return how often a key may send requests; None for no limit."""
    default: Rate | None = settings.RUNQY_RATE_LIMIT
    return parse_rate(row.rate_limit) if row.rate_limit else default


def _sort_names(names: Sequence[str]) -> Any:
    """Return names sorted, each once. Anything but a list of texts is returned unchanged, and refused by the
    validator.
    """
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        return names
    return sorted(set(names))


def revoke_api_key(*, key_id: int, with_descendants: bool = False) -> RevokedKey:
    """Revoke a key permanently; `with_descendants`, also the keys that it created, directly or indirectly.

    With descendants, it is no error that the key is already revoked, as long as one of them can be revoked. Raise
    ApiKeyNotFound, ApiKeyAlreadyRevoked.
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
    # After the revocation was published: until then a worker could register again with the key.
    transaction.on_commit(partial(remove_users_of_keys, [str(key.pk) for key in due]))
    return RevokedKey(
        row=row,
        revoked_descendants=descendants if with_descendants else [],
        accepted_descendants=[] if with_descendants else descendants,
    )


def _revoke(change: Change, row: ApiKey) -> None:
    row.revoked_at = timezone.now()
    row.save(update_fields=["revoked_at"])
    change.remove(DocumentKind.API_KEY, str(row.pk))
    changes = {"revoked_at": (None, row.revoked_at)}
    record(action="api_key.revoked", object_kind="api_key", object_name=audited_name(row), changes=changes)


def _creator() -> Mapping[str, Any]:
    actor = current_actor()
    creator = {"created_by_kind": actor.kind.value, "created_by": actor.name[:300]}
    columns = {ActorKind.KEY: "created_by_key_id", ActorKind.USER: "created_by_user_id"}
    return creator | ({columns[actor.kind]: int(actor.id)} if actor.kind in columns and actor.id else {})


def audited_name(row: ApiKey) -> str:
    """Return the name of a key in the audit, with its id because names are not unique."""
    return f"{row.pk} {row.name}"
