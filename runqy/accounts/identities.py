"""API keys of requests: how a key looks, whose it is by the process's snapshot, and when it was used.

Nothing here waits for the database: uses are recorded in memory, at most once a minute for each key in Redis, and
maintenance moves them from there into the rows.
"""

import hashlib
import hmac
import re
import secrets
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache

import msgspec
import structlog
from django.conf import settings
from django.core.signals import setting_changed
from django.dispatch import receiver

from runqy import clock
from runqy.accounts.models import ApiKey
from runqy.broker.request import AnyBroker
from runqy.broker.streams import write_behind
from runqy.configuration.documents import Document, DocumentKind
from runqy.configuration.snapshot import Snapshot, SnapshotValue, current_snapshot, get_newest, get_snapshot
from runqy.core.api_keys import ENVIRONMENT_KEYS, MIN_KEY_LENGTH, Identity, Role
from runqy.core.formats.durations import parse_rate
from runqy.core.formats.json_decoding import read_json
from runqy.errors import BrokerUnavailable, KeyRequired, RunqyError
from runqy.redis_connection import get_broker

log = structlog.get_logger()

PREFIX_LENGTH = 10
"""The length of the beginning of a key that is stored and shown, to identify it."""
USE_INTERVAL_S = 60.0
"""How often the use of a key is written to Redis."""

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_PREFIX = "rq_"
_RANDOM, _CHECKED = 32, 6
_KEY = re.compile(f"{_PREFIX}[0-9A-Za-z]{{{_RANDOM + _CHECKED}}}")

_used_at_s: dict[str, int] = {}  # id of a key -> Unix s of its last use that is not in Redis yet
_written_at_s: dict[str, float] = {}  # id of a key -> monotonic s at which its use was last written to Redis


class PublishedKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key in the published configuration: its hash and limits. Revoked keys are not published."""

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
            name=key.full_name,
            queues=tuple(key.queues),
            expires_at=key.expires_at,
            vaults=tuple(key.vaults),
            rate_limit=key.rate_limit,
            allow_shared_redis=key.allow_shared_redis,
        )


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A published key and its identity."""

    published: PublishedKey
    identity: Identity
    expires_ns: float
    """Unix ns; infinity if it never expires."""


def generate_key() -> str:
    """Return a random key. It has the prefix `rq_` and a checksum, by which secret scanners recognise it."""
    random = "".join(secrets.choice(_DIGITS) for _ in range(_RANDOM))
    return f"{_PREFIX}{random}{_checksum(random)}"


def key_digest(key: str) -> str:
    """Return the hash that is stored and compared."""
    # Keys are random, so a fast hash is enough.
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def find_identity(key: str) -> Identity | None:
    """Return the identity of a key by the process's snapshot, without I/O; None if it is unknown, expired or revoked.

    Raise ConfigurationUnavailable if the key may be of the database and there is no snapshot.
    """
    digest = key_digest(key)
    identity = _find_in_environment(digest)
    return identity or (_find_published(digest) if _has_key_format(key) else None)


def accept_key(key: str) -> Identity | None:
    """Return the identity of a key, like `find_identity`, and record its use; None also for a key that `is_guessable`.

    That is all that most requests need. Others go on with `authenticate_key`.
    """
    identity = None if is_guessable(key) else find_identity(key)
    if identity is not None:
        record_use(identity.key_id)
    return identity


def accept_key_blocking(key: str) -> Identity | None:
    """Do the same by a snapshot that is at most a second old, and write the key's use to Redis when that is due."""
    refresh_for_key(key)
    identity = accept_key(key)
    if identity is not None:
        write_use_when_due(identity.key_id)
    return identity


def may_be_new(key: str) -> bool:
    """Return whether another process may just have created a key: runqy generated it, but it is not in the snapshot.

    Keys of another form, which may be guessed, are not compared. Raise ConfigurationUnavailable.
    """
    return _has_key_format(key) and find_identity(key) is None and _has_valid_checksum(key)


def refresh_for_key(key: str) -> None:
    """Refresh the snapshot before a key is looked up: when that is due, and at once for a key that may be new.

    Nothing is refreshed for keys of the environment. Blocks. Raise ConfigurationUnavailable.
    """
    if _has_key_format(key) and _find_in_environment(key_digest(key)) is None:
        get_snapshot()
        if may_be_new(key):
            get_newest()


def is_guessable(key: str) -> bool:
    """Return whether a key may be a short one from the environment, which can be guessed.

    Such keys are not compared for an address that has sent too many wrong keys.
    """
    return len(key) < MIN_KEY_LENGTH and _environment_keys().has_short


def known_keys(snapshot: Snapshot) -> Mapping[str, KnownKey]:
    """Return the keys of a snapshot, also expired ones, by digest."""
    return _KNOWN_KEYS.of(snapshot)


def refuse_revoked_key(key_id: str) -> None:
    """Raise KeyRequired if the snapshot no longer has this key. The caller has refreshed the snapshot."""
    if key_id and current_snapshot().find(DocumentKind.API_KEY, key_id) is None:
        raise KeyRequired("This API key is revoked.")


def record_use(key_id: str) -> None:
    """Record in memory that a key is used now. Keys of the environment have no id, and are ignored."""
    if key_id:
        _used_at_s[key_id] = clock.now_ns() // 1_000_000_000


def write_use_when_due(key_id: str) -> None:
    """Write the recorded uses to Redis if that of this key is due. Blocks."""
    if _is_due(key_id):
        get_broker().run(write_uses(get_broker()))


async def write_uses(broker: AnyBroker) -> None:
    """Write the uses that are due to Redis in one round trip. A failure is logged, and its uses are lost."""
    requests = [write_behind.record_key_use(key_id, now_s=used_at_s) for key_id, used_at_s in pop_due_uses().items()]
    try:
        outcomes = await broker.send_all(requests)
    except BrokerUnavailable as error:
        outcomes = [error]
    failed = next((outcome for outcome in outcomes if isinstance(outcome, RunqyError)), None)
    if failed is not None:
        log.warning("key_use_not_recorded", error=failed.detail)


def pop_due_uses() -> dict[str, int]:
    """Return the uses, as Unix s by id, that are to be written to Redis now: each key at most once a minute."""
    due = {key_id: used_at_s for key_id, used_at_s in list(_used_at_s.items()) if _is_due(key_id)}
    for key_id in due:
        _written_at_s[key_id] = clock.monotonic_s()
        _used_at_s.pop(key_id, None)
    return due


def store_key_uses() -> int:
    """Move the uses from Redis into the rows; return how many rows changed. Raise BrokerUnavailable."""
    changed = 0
    for key_id, used_s in get_broker().run(write_behind.read_key_uses()).items():
        used_at = datetime.fromtimestamp(used_s, UTC)
        # Several processes write to Redis in any order: a row may have a later use already.
        later = ApiKey.objects.filter(pk=key_id).exclude(last_used_at__gte=used_at)
        changed += later.update(last_used_at=used_at)
    return changed


def _is_due(key_id: str) -> bool:
    since_s = _written_at_s.get(key_id, float("-inf"))
    return key_id in _used_at_s and clock.monotonic_s() - since_s >= USE_INTERVAL_S


def _has_key_format(text: str) -> bool:
    return _KEY.fullmatch(text) is not None


def _has_valid_checksum(key: str) -> bool:
    return _checksum(key[len(_PREFIX) : -_CHECKED]) == key[-_CHECKED:]


def _checksum(random: str) -> str:
    """Return the CRC-32 of the random part as six base-62 digits."""
    number = zlib.crc32(random.encode())
    digits = []
    for _ in range(_CHECKED):
        number, rest = divmod(number, len(_DIGITS))
        digits.append(_DIGITS[rest])
    return "".join(reversed(digits))


def _find_in_environment(digest: str) -> Identity | None:
    # All are compared, so that the time does not reveal which one matched.
    found = None
    for known, identity in _environment_keys().identities:
        if hmac.compare_digest(known, digest):
            found = identity
    return found


@dataclass(frozen=True, slots=True)
class _EnvironmentKeys:
    identities: tuple[tuple[str, Identity], ...]
    """Pairs of digest and identity, the most privileged last: of equal keys it wins."""
    has_short: bool
    """Whether one of the keys is short enough to be guessed."""


@cache  # settings change only in tests
def _environment_keys() -> _EnvironmentKeys:
    keys = [(getattr(settings, name), role) for name, role in ENVIRONMENT_KEYS.items()]
    limits = {Role.WORKER: frozenset(settings.RUNQY_WORKER_API_KEY_QUEUES) or None}
    return _EnvironmentKeys(
        tuple(
            (key_digest(key), Identity(role=role, name=f"{role} key of the environment", queues=limits.get(role)))
            for key, role in keys
            if key
        ),
        has_short=any(0 < len(key) < MIN_KEY_LENGTH for key, _ in keys),
    )


@receiver(setting_changed)
def _forget_environment_keys(*, setting: str, **_: object) -> None:
    if setting in (*ENVIRONMENT_KEYS, "RUNQY_WORKER_API_KEY_QUEUES"):
        _environment_keys.cache_clear()


def _find_published(digest: str) -> Identity | None:
    known = known_keys(current_snapshot()).get(digest)
    if known is None or not hmac.compare_digest(known.published.digest, digest):
        return None
    return known.identity if known.expires_ns > clock.now_ns() else None


def _decode_keys(snapshot: Snapshot) -> Mapping[str, KnownKey]:
    decoded = snapshot.decode(DocumentKind.API_KEY, _decode)
    return {known.published.digest: known for known in decoded.values() if known}


def _decode(document: Document) -> KnownKey | None:
    """Return the key in a document; None if it is unreadable, which must not affect other keys."""
    try:
        published = read_json(document.body or b"", PublishedKey)
        identity = Identity(
            role=published.role,
            name=published.name,
            queues=frozenset(published.queues) or None,
            vaults=frozenset(published.vaults) or None,
            allow_shared_redis=published.allow_shared_redis,
            rate=parse_rate(published.rate_limit) if published.rate_limit else None,
            key_id=document.name,
        )
    except (ValueError, RecursionError) as error:
        log.warning("api_key_unreadable", key_id=document.name, error=str(error))
        return None
    return KnownKey(
        published, identity, published.expires_at.timestamp() * 1e9 if published.expires_at else float("inf")
    )


_KNOWN_KEYS = SnapshotValue(_decode_keys)
