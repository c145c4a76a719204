"""Recognises keys: those of the environment, and those of the published configuration. Lists those of the database."""

import hmac
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from django.conf import settings
from django.db.models import Q
from django.utils import timezone

from runqy import clock
from runqy.accounts import key_uses
from runqy.accounts.identity import SHORTEST_KEY, Identity, Role, is_key, key_digest
from runqy.accounts.models import ApiKey
from runqy.accounts.published import PublishedKey
from runqy.broker.rates import parse_rate
from runqy.errors import ApiKeyNotFound
from runqy.publication.derived import DerivedValue, Snapshot
from runqy.publication.documents import Document, Kind
from runqy.publication.models import StoredDocument
from runqy.publication.snapshot import current_snapshot, get_newest, get_snapshot
from runqy.structs import read_json

__all__ = [
    "Identity",
    "KeyPage",
    "KeyStatus",
    "Role",
    "authenticate",
    "environment_variables",
    "find_identity",
    "get_api_key",
    "in_status",
    "is_guessable",
    "key_status",
    "list_accepted_descendants",
    "list_api_keys",
    "list_api_keys_page",
    "queue_names",
    "vault_names",
]


class KeyStatus(StrEnum):
    """Whether a key is accepted, and why not."""

    ACTIVE = "active"
    UNUSED = "never used"  # accepted, as an active one
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPage:
    """Some keys, the newest first."""

    keys: Sequence[ApiKey]
    end: int | None
    """The id of the last one, if there are more."""


@dataclass(frozen=True, slots=True)
class _KnownKey:
    """A published key and whose it is."""

    published: PublishedKey
    identity: Identity
    expires_ns: float
    """Unix ns; infinity: never."""


def find_identity(key: str) -> Identity | None:
    """Return whose key this is in the process's snapshot, without I/O; None if it is unknown, expired or revoked.

    A caller that accepts a key calls `key_uses.record_use`. What is unknown but `is_key` may have just been created by
    another process. Raises ConfigurationUnavailable for what is no key of the environment while there is no snapshot.
    """
    digest = key_digest(key)
    return _find_in_environment(digest) or _find_published(current_snapshot(), digest)


def authenticate(key: str) -> Identity | None:
    """Return whose key this is as `find_identity` does, on a snapshot that is compared with Redis, and record its use.

    A key that another process has just created is known at once. Asks no database. Raises ConfigurationUnavailable.
    """
    digest = key_digest(key)
    identity = _find_in_environment(digest)
    if identity is not None:
        return identity
    identity = _find_published(get_snapshot(), digest)
    if identity is None and is_key(key):
        identity = _find_published(get_newest(), digest)
    if identity is not None:
        key_uses.note_use(identity.key_id)
    return identity


def is_guessable(key: str) -> bool:
    """Return whether a key may be a short one of the environment.

    It is not compared for an address beyond its limit of wrong keys. Others have too many forms to be guessed.
    """
    keys = (settings.RUNQY_CLIENT_API_KEY, settings.RUNQY_WORKER_API_KEY, settings.RUNQY_API_KEY)
    return len(key) < SHORTEST_KEY and any(0 < len(known) < SHORTEST_KEY for known in keys)


def list_api_keys() -> list[ApiKey]:
    """Return the rows of all keys, the newest first."""
    return list(ApiKey.objects.order_by("-pk"))


def list_api_keys_page(*, limit: int, below: int | None = None) -> KeyPage:
    """Return some keys, the newest first; `below` is the end of the page before."""
    found = ApiKey.objects.all() if below is None else ApiKey.objects.filter(pk__lt=below)
    keys = list(found.order_by("-pk")[: limit + 1])
    return KeyPage(keys=keys[:limit], end=keys[limit - 1].pk if len(keys) > limit else None)


def get_api_key(key_id: int) -> ApiKey:
    """Return the row of a key. Raises ApiKeyNotFound."""
    key = ApiKey.objects.filter(pk=key_id).first()
    if key is None:
        raise ApiKeyNotFound
    return key


def list_accepted_descendants(key_ids: Iterable[int]) -> list[ApiKey]:
    """Return the accepted keys that some keys created, and those that these created, down to the last.

    Keys between that are revoked or expired count too: what they created may still be accepted.
    """
    seen = set(key_ids)
    found: list[ApiKey] = []
    level = list(seen)
    while level:
        created = [key for key in ApiKey.objects.filter(created_by_key__in=level).order_by("pk") if key.pk not in seen]
        found += created
        level = [key.pk for key in created]
        seen.update(level)
    return [key for key in found if key_status(key) in (KeyStatus.ACTIVE, KeyStatus.UNUSED)]


def key_status(key: ApiKey) -> KeyStatus:
    """Return the status of a key."""
    if key.revoked_at is not None:
        return KeyStatus.REVOKED
    if key.expires_at is not None and key.expires_at <= timezone.now():
        return KeyStatus.EXPIRED
    return KeyStatus.UNUSED if key.last_used_at is None else KeyStatus.ACTIVE


def in_status(status: KeyStatus) -> Q:
    """Return the condition that a key has a status; those that were never used are active too."""
    now = timezone.now()
    if status == KeyStatus.REVOKED:
        return Q(revoked_at__isnull=False)
    if status == KeyStatus.EXPIRED:
        return Q(revoked_at=None, expires_at__lte=now)
    accepted = Q(revoked_at=None) & (Q(expires_at=None) | Q(expires_at__gt=now))
    return accepted if status == KeyStatus.ACTIVE else accepted & Q(last_used_at=None)


def environment_variables() -> list[str]:
    """Return the variables that hold keys of this server's environment."""
    names = ("RUNQY_API_KEY", "RUNQY_WORKER_API_KEY", "RUNQY_CLIENT_API_KEY")
    return [name for name in names if getattr(settings, name)]


def queue_names() -> list[str]:
    """Return the names of all queues, in order."""
    stored = StoredDocument.objects.filter(kind=Kind.QUEUE, body__isnull=False)
    return list(stored.order_by("name").values_list("name", flat=True))


def vault_names() -> list[str]:
    """Return the names of all vaults, in order."""
    stored = StoredDocument.objects.filter(kind=Kind.VAULT, body__isnull=False)
    return list(stored.order_by("name").values_list("name", flat=True))


def _find_in_environment(digest: str) -> Identity | None:
    """Return the identity of a key from the environment; takes the same time whichever it is."""
    found = None
    keys = (settings.RUNQY_CLIENT_API_KEY, settings.RUNQY_WORKER_API_KEY, settings.RUNQY_API_KEY)
    for known, identity in _environment_keys(*keys):
        if hmac.compare_digest(known, digest):
            found = identity
    return found


@lru_cache(maxsize=8)
def _environment_keys(client: str, worker: str, admin: str) -> tuple[tuple[str, Identity], ...]:
    """Return the digests of the environment's keys, those with more rights last, so that they win."""
    keys = ((client, Role.CLIENT), (worker, Role.WORKER), (admin, Role.ADMIN))
    return tuple(
        (key_digest(key), Identity(role=role, name=f"{role} key of the environment")) for key, role in keys if key
    )


def _find_published(snapshot: Snapshot, digest: str) -> Identity | None:
    """Return the identity of a published key, found by a hash that nobody can steer towards another's."""
    known = _KNOWN_KEYS.of(snapshot).get(digest)
    if known is None or not hmac.compare_digest(known.published.digest, digest):
        return None
    return known.identity if known.expires_ns > clock.now_ns() else None


def _known_keys(snapshot: Snapshot) -> Mapping[str, _KnownKey]:
    """Return the keys of a snapshot by their digests."""
    return {known.published.digest: known for known in snapshot.decode(Kind.API_KEY, _decode).values()}


def _decode(document: Document) -> _KnownKey:
    """Return a published key."""
    published = read_json(document.body or b"", PublishedKey)
    queues = frozenset(published.queues) or None
    vaults = frozenset(published.vaults) or None
    identity = Identity(
        role=published.role,
        name=published.name,
        queues=queues,
        vaults=vaults,
        rate=parse_rate(published.rate_limit) if published.rate_limit else None,
        key_id=document.name,
    )
    expires_ns = published.expires_at.timestamp() * 1e9 if published.expires_at else float("inf")
    return _KnownKey(published, identity, expires_ns)


_KNOWN_KEYS = DerivedValue(_known_keys)
