"""Create and revoke API keys.

The app of batches, which is above, registers how many members of batches of a key wait, and how they are cancelled.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

import msgspec
from django.conf import settings
from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone

from runqy.accounts.identities import PREFIX_LENGTH, PublishedKey, generate_key, key_digest
from runqy.accounts.models import ApiKey
from runqy.accounts.queries import (
    find_queue_of_sub_queue,
    list_accepted_descendants,
    list_keys_to_end,
    list_personal_keys,
    list_unknown_queues,
)
from runqy.accounts.users import list_key_roles
from runqy.accounts.worker_credentials import remove_users_of_keys
from runqy.audit.actors import ActorKind, current_actor
from runqy.audit.operations import record
from runqy.configuration.documents import DocumentKind
from runqy.configuration.operations import Change, configuration_change
from runqy.core.database.errors import model_errors
from runqy.core.formats.durations import Rate, parse_rate
from runqy.errors import ApiKeyAlreadyRevoked, ApiKeyInvalid, ApiKeyNotFound

MAX_PERSONAL_KEYS = 20
"""How many accepted personal keys a user may have; each is in the memory of all servers."""


@dataclass(frozen=True, slots=True)
class CreatedKey:
    """A new key. Only here it exists in plain text."""

    plain: str
    row: ApiKey
    unknown_queues: Sequence[str] = ()
    """Queues that it is limited to, and that do not exist yet."""

    @property
    def warnings(self) -> list[str]:
        names = ", ".join(self.unknown_queues)
        return [f"No such queue yet: {names}. The key may use it once it exists."] if names else []

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
    waiting_members: int
    """Members of batches of the revoked keys that wait, and will be enqueued."""
    canceled_batches: int


def create_api_key(  # noqa: PLR0913 (what describes a key)
    *,
    name: str,
    role: str,
    queues: Sequence[str] = (),
    vaults: Sequence[str] = (),
    expires_at: datetime | None = None,
    rate_limit: str = "",
    allow_shared_redis: bool = False,
    is_personal: bool = False,
) -> CreatedKey:
    """Create a key and publish its hash. Raise ApiKeyInvalid, also for limits beyond those of the key that creates
    it, and for a personal key with more rights than the user that creates it.
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
            is_personal=is_personal,
            **_creator(),
        )
        if errors := model_errors(row) or _limit_errors(row) or _personal_errors(row):
            raise ApiKeyInvalid(errors=errors)
        unknown_queues = list_unknown_queues(row.queues)
        if errors := _sub_queue_errors(unknown_queues):
            raise ApiKeyInvalid(errors=errors)
        row.save()
        _publish(change, row)
        optional = [column for column in ("rate_limit", "allow_shared_redis", "is_personal") if getattr(row, column)]
        columns = ("name", "role", "queues", "vaults", "expires_at", *optional)
        changes = {column: (None, getattr(row, column)) for column in columns}
        record(action="api_key.created", object_kind="api_key", object_name=audited_name(row), changes=changes)
    return CreatedKey(plain, row, unknown_queues)


def _sub_queue_errors(names: Sequence[str]) -> list[str]:
    """Return which names mean a sub-queue: a key that is limited to one could do nothing."""
    owners = [(name, find_queue_of_sub_queue(name)) for name in names]
    rule = "keys are limited to whole queues"
    return [f"queues: {name} is a sub-queue; {rule}: name {queue}." for name, queue in owners if queue]


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


def _personal_errors(row: ApiKey) -> list[str]:
    """Return why the user that creates a personal key may not have it."""
    if not row.is_personal:
        return []
    # Read under the lock of the change: the user may be losing these rights meanwhile.
    user = User.objects.filter(pk=row.created_by_user_id).first() if row.created_by_user_id else None
    if user is None or row.role not in list_key_roles(user):
        return [f"role: A key with the role {row.role} would have more rights than you."]
    if len(list_personal_keys(user)) >= MAX_PERSONAL_KEYS:
        return [f"You have {MAX_PERSONAL_KEYS} keys already; revoke one that you no longer use."]
    return []


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


def revoke_api_key(*, key_id: int, with_descendants: bool = False, cancel_batches: bool = False) -> RevokedKey:
    """Revoke a key permanently; `with_descendants`, also the keys that it created, directly or indirectly.

    Batches that they created go on, unless `cancel_batches` cancels them. It is no error that the key is already
    revoked, as long as one of the descendants can be revoked, or a batch cancelled. Raise ApiKeyNotFound,
    ApiKeyAlreadyRevoked.
    """
    with configuration_change() as change:
        row = ApiKey.objects.filter(pk=key_id).first()
        if row is None:
            raise ApiKeyNotFound
        descendants = list_accepted_descendants([key_id])
        due = [row] if row.revoked_at is None else []
        if with_descendants:
            due += descendants
        for key in due:
            _revoke(change, key)
        revoked_ids = [row.pk, *(key.pk for key in descendants if with_descendants)]
        canceled_batches = cancel_batches_of_keys(revoked_ids) if cancel_batches else 0
        if canceled_batches:
            changes = {"canceled_batches": (None, canceled_batches)}
            record(
                action="api_key.batches_canceled",
                object_kind="api_key",
                object_name=audited_name(row),
                changes=changes,
            )
        if not (due or canceled_batches):
            raise ApiKeyAlreadyRevoked
        waiting_members = count_waiting_members(revoked_ids)
    # After the revocation was published: until then a worker could register again with the key.
    transaction.on_commit(partial(remove_users_of_keys, [str(key.pk) for key in due]))
    return RevokedKey(
        row=row,
        revoked_descendants=descendants if with_descendants else [],
        accepted_descendants=[] if with_descendants else descendants,
        waiting_members=waiting_members,
        canceled_batches=canceled_batches,
    )


def end_personal_keys() -> list[ApiKey]:
    """Revoke the personal keys that give more rights than their users have, and return them.

    A change of users or groups calls it in its transaction, maintenance for changes that did not.
    """
    with configuration_change() as change:
        ended = list_keys_to_end()
        for key in ended:
            _revoke(change, key)
    transaction.on_commit(partial(remove_users_of_keys, [str(key.pk) for key in ended]))
    return ended


def rename_personal_keys(user: User) -> None:
    """Publish the personal keys of a user whose name has changed."""
    with configuration_change() as change:
        for key in list_personal_keys(user):
            _publish(change, key)


def _publish(change: Change, row: ApiKey) -> None:
    change.put(DocumentKind.API_KEY, str(row.pk), msgspec.json.encode(PublishedKey.of(row)))


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
    return f"{row.pk} {row.full_name}"


@dataclass(frozen=True, slots=True)
class _KeyBatches:
    count_members: Callable[[Sequence[int]], int]
    cancel: Callable[[Sequence[int]], int]


_registered: list[_KeyBatches] = []


def register_key_batches(count_members: Callable[[Sequence[int]], int], cancel: Callable[[Sequence[int]], int]) -> None:
    """Register what returns the number of waiting members of keys, and what cancels their batches and counts these.

    Both get the ids of keys. `cancel` is called in the transaction of the revocation.
    """
    _registered.append(_KeyBatches(count_members, cancel))


def count_waiting_members(key_ids: Sequence[int]) -> int:
    """Return how many members of batches that these keys created wait to be enqueued."""
    return sum(each.count_members(key_ids) for each in _registered)


def cancel_batches_of_keys(key_ids: Sequence[int]) -> int:
    """Close the batches that these keys created, let maintenance cancel their members, and return how many they are."""
    return sum(each.cancel(key_ids) for each in _registered)
