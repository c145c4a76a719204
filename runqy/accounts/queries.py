"""API keys of the database: their status, who created them, and whether their limits hold in Redis."""

import re
from collections.abc import Iterable, Sequence
from enum import StrEnum

import msgspec
from django.conf import settings
from django.contrib.auth.models import User
from django.db.models import Q, QuerySet
from django.db.models.functions import Coalesce
from django.utils import timezone

from runqy import clock
from runqy.accounts.identities import PublishedKey, known_keys
from runqy.accounts.models import ApiKey
from runqy.accounts.users import list_key_roles
from runqy.audit.actors import ActorKind
from runqy.configuration.documents import DocumentKind
from runqy.configuration.models import StoredDocument
from runqy.configuration.snapshot import Snapshot
from runqy.core.api_keys import ENVIRONMENT_KEYS, Role
from runqy.core.formats.json_decoding import read_json
from runqy.core.formats.names import aliases_of
from runqy.errors import ApiKeyNotFound

LIMITS_NOT_IN_REDIS = (
    "Keys that are limited to queues have allow_shared_redis: workers without a Redis user of their own get shared "
    "credentials, which reach the tasks of all queues. Revoke these keys, or set RUNQY_WORKER_ACL=required."
)


INACTIVE = "(inactive)"
"""Stands for all users who may no longer create keys, including deleted ones. No user name has parentheses."""
_CREATES_KEYS, _BACKEND = "accounts.add_apikey", "django.contrib.auth.backends.ModelBackend"
_MAX_NAMED = 5


class KeyStatus(StrEnum):
    """Whether a key is accepted, or why it is not."""

    ACTIVE = "active"
    UNUSED = "never used"  # accepted
    EXPIRED = "expired"
    REVOKED = "revoked"


def is_accepted(key_id: str) -> bool:
    """Return whether a key of the database exists, is not revoked and has not expired."""
    is_unexpired = Q(expires_at=None) | Q(expires_at__gt=timezone.now())
    return ApiKey.objects.filter(is_unexpired, pk=key_id, revoked_at=None).exists()


def is_limited_in_redis(key: ApiKey | PublishedKey) -> bool:
    """Return whether the workers of a key reach only the queues of the key in Redis."""
    may_share = key.role in (Role.WORKER, Role.ADMIN) and key.queues and key.allow_shared_redis
    return not may_share or settings.RUNQY_WORKER_ACL == "required"


def has_limits_not_in_redis(snapshot: Snapshot) -> bool:
    """Return whether there is an accepted key that is limited to queues, but whose workers may reach others in
    Redis.
    """
    now_ns = clock.now_ns()
    known = [key for key in known_keys(snapshot).values() if key.expires_ns > now_ns]
    return not all(is_limited_in_redis(key.published) for key in known)


def list_keys_not_limited_in_redis() -> list[ApiKey]:
    """Return the accepted keys that are limited to queues, but whose workers may reach others in Redis."""
    found = ApiKey.objects.filter(status_filter(KeyStatus.ACTIVE)).order_by("pk")
    return [key for key in found if not is_limited_in_redis(key)]


def list_api_keys() -> list[ApiKey]:
    """Return all keys, newest first."""
    return list(ApiKey.objects.select_related("created_by_user").order_by("-pk"))


def list_api_keys_page(limit: int, below: int | None = None) -> tuple[Sequence[ApiKey], int | None]:
    """Return a page of keys, newest first, and its end: the `below` of the next page, None on the last one."""
    found = ApiKey.objects.all() if below is None else ApiKey.objects.filter(pk__lt=below)
    keys = list(found.order_by("-pk")[: limit + 1])
    return keys[:limit], keys[limit - 1].pk if len(keys) > limit else None


def get_api_key(key_id: int) -> ApiKey:
    """Return a key. Raise ApiKeyNotFound."""
    key = ApiKey.objects.filter(pk=key_id).first()
    if key is None:
        raise ApiKeyNotFound
    return key


def list_accepted_descendants(key_ids: Iterable[int]) -> list[ApiKey]:
    """Return the accepted keys that these keys created, directly or indirectly, also through revoked keys."""
    seen = set(key_ids)
    found: list[ApiKey] = []
    level = list(seen)
    while level:
        created = [key for key in ApiKey.objects.filter(created_by_key__in=level).order_by("pk") if key.pk not in seen]
        found += created
        level = [key.pk for key in created]
        seen.update(level)
    return [key for key in found if get_key_status(key) in (KeyStatus.ACTIVE, KeyStatus.UNUSED)]


def list_personal_keys(user: User) -> list[ApiKey]:
    """Return the accepted keys of a user's own, newest first."""
    return list(_accepted_personal_keys().filter(created_by_user=user).order_by("-pk"))


def list_keys_to_end() -> list[ApiKey]:
    """Return the accepted personal keys that give more rights than their users have."""
    keys = _accepted_personal_keys().select_related("created_by_user").order_by("pk")
    users = {key.created_by_user for key in keys}
    roles = {user: list_key_roles(user) if user else [] for user in users}
    return [key for key in keys if key.role not in roles[key.created_by_user]]


def _accepted_personal_keys() -> QuerySet[ApiKey]:
    return ApiKey.objects.filter(status_filter(KeyStatus.ACTIVE), is_personal=True)


def filter_by_creator(creator: str) -> Q:
    """Return the condition for keys that a user of this name created.

    INACTIVE stands for users who are deleted, inactive or may no longer create keys.
    """
    made = Q(created_by_kind=ActorKind.USER.value)
    if creator == INACTIVE:
        made &= ~Q(is_personal=True, revoked_at=None)  # these end by themselves: `end_personal_keys`
        return made & ~Q(created_by_user__in=User.objects.with_perm(_CREATES_KEYS, backend=_BACKEND))
    return made & (Q(created_by_user__username=creator) | Q(created_by_user=None, created_by=creator))


def list_creators() -> list[str]:
    """Return the names of users who created keys, sorted."""
    made = ApiKey.objects.filter(created_by_kind=ActorKind.USER.value).order_by()
    names = made.values_list(Coalesce("created_by_user__username", "created_by"), flat=True)
    return sorted(names.distinct())


def list_accepted_keys_of(creator: str) -> list[ApiKey]:
    """Return the accepted keys of a user, or of INACTIVE, and those that were created with the user's keys."""
    made = list(ApiKey.objects.filter(filter_by_creator(creator)).order_by("pk"))
    accepted = [key for key in made if get_key_status(key) in (KeyStatus.ACTIVE, KeyStatus.UNUSED)]
    return accepted + list_accepted_descendants([key.pk for key in made])


def find_keys_of_inactive_users() -> str:
    """Return an error that names the accepted keys of users who may no longer create keys; empty if there are none."""
    keys = list_accepted_keys_of(INACTIVE)
    if not keys:
        return ""
    named = ", ".join(f"{key} by {key.created_by}" for key in keys[:_MAX_NAMED])
    more = f" and {len(keys) - _MAX_NAMED:,} more" if len(keys) > _MAX_NAMED else ""
    creators = "users who are deleted, inactive or may no longer create keys"
    return f"API keys of {creators}, or created with these keys, are still accepted: {named}{more}."


def get_key_status(key: ApiKey) -> KeyStatus:
    if key.revoked_at is not None:
        return KeyStatus.REVOKED
    if key.expires_at is not None and key.expires_at <= timezone.now():
        return KeyStatus.EXPIRED
    return KeyStatus.UNUSED if key.last_used_at is None else KeyStatus.ACTIVE


def status_filter(status: KeyStatus) -> Q:
    """Return the condition for a status. Keys that were never used are active too."""
    now = timezone.now()
    if status == KeyStatus.REVOKED:
        return Q(revoked_at__isnull=False)
    if status == KeyStatus.EXPIRED:
        return Q(revoked_at=None, expires_at__lte=now)
    accepted = Q(revoked_at=None) & (Q(expires_at=None) | Q(expires_at__gt=now))
    return accepted if status == KeyStatus.ACTIVE else accepted & Q(last_used_at=None)


def list_environment_variables() -> list[str]:
    return [name for name in ENVIRONMENT_KEYS if getattr(settings, name)]


def has_accepted_key() -> bool:
    """Return whether any API key is accepted, from the environment or the database."""
    accepted = ApiKey.objects.filter(status_filter(KeyStatus.ACTIVE))
    return bool(list_environment_variables()) or accepted.exists()


class _SubQueue(msgspec.Struct, frozen=True):
    name: str


class _QueueDocument(msgspec.Struct, frozen=True):
    sub_queues: tuple[_SubQueue, ...] = ()


def list_unknown_queues(names: Iterable[str]) -> list[str]:
    """Return the names that no queue has."""
    wanted = set(names)
    stored = StoredDocument.objects.filter(kind=DocumentKind.QUEUE, name__in=wanted, body__isnull=False)
    return sorted(wanted.difference(stored.values_list("name", flat=True)))


def find_queue_of_sub_queue(name: str) -> str | None:
    """Return the queue of which a name means a sub-queue; None if it means none."""
    queues = [name[: mark.start()] for mark in re.finditer(r"[_.]", name)]
    for stored in StoredDocument.objects.filter(kind=DocumentKind.QUEUE, name__in=queues, body__isnull=False):
        document = read_json(bytes(stored.body or b""), _QueueDocument)
        if name in aliases_of(stored.name, [each.name for each in document.sub_queues]):
            return stored.name
    return None


def list_queue_names() -> list[str]:
    stored = StoredDocument.objects.filter(kind=DocumentKind.QUEUE, body__isnull=False)
    return list(stored.order_by("name").values_list("name", flat=True))


def list_vault_names() -> list[str]:
    stored = StoredDocument.objects.filter(kind=DocumentKind.VAULT, body__isnull=False)
    return list(stored.order_by("name").values_list("name", flat=True))
