"""Gives each worker process a Redis user of its own, and takes it away with the API key that it registered with.

What was given stands in Redis, signed, so that registering touches no database, and so that maintenance can create
users again where Redis lost them. Names and passwords are derived from the secret key: registering again, on any web
process, gives the same ones, and no password is stored.
"""

import hashlib
import hmac
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import msgspec
import structlog
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings

from runqy import clock
from runqy.accounts.identity import Identity, Role
from runqy.accounts.published import PublishedKey
from runqy.broker import redis_users as acl
from runqy.broker.broker import Broker
from runqy.broker.redis_users import RedisUser, StoredUser
from runqy.connection import get_broker
from runqy.errors import BrokerCommandRefused, BrokerRefused, BrokerUnavailable
from runqy.publication.derived import Snapshot
from runqy.publication.documents import Kind
from runqy.publication.snapshot import get_newest, get_snapshot
from runqy.structs import read_json

__all__ = ["Credentials", "RedisUserReconciler", "give_redis_user", "may_create_users", "remove_users_of_keys"]

log = structlog.get_logger(__name__)

READ_EVERY_S = 10.0
"""How often what is stored is read again, and whether workers still report, while no user is missing."""
SILENT_S = 120.0
"""How long a worker may report nothing before its user is deleted. It counts only while Redis can be asked."""
REFUSED_RETRY_S = 10.0
"""How long maintenance waits where Redis does not let it see users."""

_ENVIRONMENT = "environment:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """How a worker enters Redis."""

    username: str
    password: str = field(repr=False)


class _Grant(msgspec.Struct, frozen=True, kw_only=True):
    """A registration's part in a Redis user."""

    user: str
    password_sha256: str
    instance_id: str
    worker_id: str
    queue: str
    """By its own name."""
    redis_queues: tuple[str, ...]
    key: str
    """See `_key_reference`."""
    registered_at_s: int
    expires_at_s: float | None
    """When the API key does."""


def give_redis_user(
    identity: Identity, *, instance_id: str, worker_id: str, queue: str, redis_queues: Sequence[str]
) -> Credentials | None:
    """Let the Redis user of a worker process serve some Redis queues; create it if there is none.

    None: Redis does not let this server create users. Raises BrokerUnavailable, ConfigurationUnavailable.
    """
    broker = get_broker()
    key = _key_reference(identity)
    name = acl.PREFIX + _mac("name", key, instance_id)[:24]
    password = _mac("password", name)
    grant = _Grant(
        user=name,
        password_sha256=hashlib.sha256(password.encode()).hexdigest(),
        instance_id=instance_id,
        worker_id=worker_id,
        queue=queue,
        redis_queues=tuple(redis_queues),
        key=key,
        registered_at_s=broker.now_s(),
        expires_at_s=_expires_at_s(key, get_snapshot()),
    )
    stored = _sign(grant)
    broker.run(acl.store_user(stored))  # first: maintenance deletes users of which nothing is stored
    try:
        acl.create_users(broker, _users([grant]), target=settings.RUNQY_WORKER_REDIS_TARGET)
    except (BrokerRefused, BrokerCommandRefused) as error:
        log.warning("redis_users_refused", error=error.detail)
        broker.run(acl.drop_users([stored]))
        return None
    return Credentials(username=name, password=password)


def remove_users_of_keys(key_ids: Collection[str]) -> None:
    """Delete the Redis users that workers got with some API keys, and end their connections.

    Where Redis is away maintenance does it later.
    """
    try:
        broker = get_broker()
        stored = broker.run(acl.read_users())
        theirs = [part for part in stored if (grant := _verify(part)) is not None and grant.key in key_ids]
        if theirs:
            broker.run(acl.drop_users(theirs))
            acl.delete_users(broker, {part.field.partition("/")[0] for part in theirs})
    except (BrokerUnavailable, BrokerCommandRefused) as error:
        log.warning("redis_users_not_removed", key_ids=[*key_ids], error=error.detail)


def may_create_users(broker: Broker) -> bool:
    """Return whether Redis lets this server administer users. Raises BrokerUnavailable."""
    try:
        acl.list_users(broker)
    except (BrokerRefused, BrokerCommandRefused):
        return False
    return True


class RedisUserReconciler:
    """Makes the Redis users of all servers what the registrations of valid keys and living workers say.

    Any number of processes may do so side by side.
    """

    def __init__(self, *, has_redis_queue: Callable[[str, str], bool] = lambda _queue, _redis_queue: True) -> None:
        """Take what returns whether a queue has a Redis queue now.

        What a registration got of a sub-queue that is gone is taken away: another queue may have the name by now.
        """
        self._has_redis_queue = has_redis_queue
        self._parts: dict[str, tuple[StoredUser, _Grant]] = {}
        """What was stored when it was last read, by field, without what is over."""
        self._read_at_s = float("-inf")
        self._refused_until_s = float("-inf")
        self._silent_since_s: dict[str, float] = {}
        self._done: dict[str, dict[str, RedisUser]] = {}
        """By server and name: the users that this process set there."""

    def run(self, broker: Broker) -> None:
        """Create what is missing and delete what is over. Raises BrokerUnavailable, ConfigurationUnavailable."""
        if clock.monotonic_s() < self._refused_until_s:
            return
        try:
            present = acl.list_users(broker)
            if self._is_read_due(present):
                self._read(broker)
            self._drop_invalid(broker)
            self._reconcile(broker, present)
        except (BrokerRefused, BrokerCommandRefused) as error:
            self._refused_until_s = clock.monotonic_s() + REFUSED_RETRY_S
            if self._parts or settings.RUNQY_WORKER_ACL == "required":
                log.warning("redis_users_refused", error=error.detail)

    def _is_read_due(self, present: dict[str, frozenset[str]]) -> bool:
        known = frozenset(grant.user for _, grant in self._parts.values())
        is_old = clock.monotonic_s() - self._read_at_s >= READ_EVERY_S
        return is_old or any(names != known for names in present.values())

    def _read(self, broker: Broker) -> None:
        """Read what is stored, and which workers still report."""
        parts, refused = {}, []
        for part in broker.run(acl.read_users()):
            grant = _verify(part)
            if grant is None:
                refused.append(part)
            else:
                parts[part.field] = (part, grant)
        if refused:
            log.error("redis_user_records_refused", fields=[part.field for part in refused], reason="wrong signature")
            broker.run(acl.drop_users(refused))
        if over := self._find_over(broker, [grant for _, grant in parts.values()]):
            log.info("redis_users_over", workers=sorted(parts[place][1].worker_id for place in over))
            broker.run(acl.drop_users([parts.pop(place)[0] for place in over]))
        self._parts = parts
        self._read_at_s = clock.monotonic_s()

    def _find_over(self, broker: Broker, grants: Sequence[_Grant]) -> list[str]:
        """Return the fields of those whose workers deregistered, or have been silent for long."""
        if not grants:
            return []
        now_s, silent_since_s, over = clock.monotonic_s(), {}, []
        ended = broker.run(acl.read_lives([grant.worker_id for grant in grants]))
        for grant, ended_s in zip(grants, ended, strict=True):
            if ended_s is None:
                continue
            place = _field(grant)
            silent_since_s[place] = self._silent_since_s.get(place, now_s)
            if ended_s >= grant.registered_at_s or now_s - silent_since_s[place] >= SILENT_S:
                over.append(place)
        self._silent_since_s = silent_since_s
        return over

    def _drop_invalid(self, broker: Broker) -> None:
        """Drop the parts of keys that are revoked or expired, or all where users are turned off."""
        invalid = self._find_invalid(get_snapshot(), broker.now_s()) if self._parts else []
        if invalid:  # a key may be newer than the snapshot
            invalid = self._find_invalid(get_newest(), broker.now_s())
        if invalid:
            log.info("redis_users_revoked", workers=sorted(self._parts[place][1].worker_id for place in invalid))
            broker.run(acl.drop_users([self._parts.pop(place)[0] for place in invalid]))

    def _find_invalid(self, snapshot: Snapshot, now_s: int) -> list[str]:
        return [place for place, (_, grant) in self._parts.items() if not _is_valid(grant, snapshot, now_s)]

    def _reconcile(self, broker: Broker, present: dict[str, frozenset[str]]) -> None:
        """Delete users of which nothing is stored; set those that a server has not, or not as they are to be."""
        wanted = {user.name: user for user in _users(self._narrowed([grant for _, grant in self._parts.values()]))}
        surplus = frozenset[str]().union(*present.values()) - wanted.keys()
        if surplus:
            acl.delete_users(broker, surplus)
        for node, names in present.items():
            self._reconcile_node(broker, node, names, wanted)
        self._done = dict.fromkeys(present, wanted)

    def _narrowed(self, grants: Sequence[_Grant]) -> list[_Grant]:
        """Return registrations with the Redis queues that their queues still have."""
        given = {(grant.queue, name) for grant in grants for name in grant.redis_queues}
        kept = {pair for pair in given if self._has_redis_queue(*pair)}
        return [
            msgspec.structs.replace(
                grant, redis_queues=tuple(name for name in grant.redis_queues if (grant.queue, name) in kept)
            )
            for grant in grants
        ]

    def _reconcile_node(self, broker: Broker, node: str, names: frozenset[str], wanted: dict[str, RedisUser]) -> None:
        """Set the users of one server that differ. What only grows is added, not to take what was given meanwhile."""
        target, done = settings.RUNQY_WORKER_REDIS_TARGET, self._done.get(node)
        if done is not None and not done.keys() & wanted.keys() <= names:
            done = {}  # it restarted, and others may have created a part of what was there
        narrowing, growing = [], []
        for name, user in wanted.items():
            before = done.get(name) if done is not None else None
            if name not in names or (done is not None and before is None):
                growing.append(user)
            elif before is None or not user.extends(before):
                narrowing.append(user)
            elif before != user:
                growing.append(user)
        acl.set_users(broker, node, growing, target=target)
        acl.set_users(broker, node, narrowing, target=target, is_narrowing=True)
        if narrowing:
            self._read_at_s = float("-inf")  # a registration under way may have lost what it had just been given


def _users(grants: Iterable[_Grant]) -> list[RedisUser]:
    """Return the users that registrations make up together."""
    by_user: dict[str, list[_Grant]] = {}
    for grant in grants:
        by_user.setdefault(grant.user, []).append(grant)
    return [
        RedisUser(
            name=name,
            password_sha256=parts[0].password_sha256,
            instance_id=parts[0].instance_id,
            worker_ids=tuple(sorted({part.worker_id for part in parts})),
            redis_queues=tuple(sorted({queue for part in parts for queue in part.redis_queues})),
        )
        for name, parts in by_user.items()
    ]


def _is_valid(grant: _Grant, snapshot: Snapshot, now_s: int) -> bool:
    """Return whether the key of a registration still allows it."""
    if settings.RUNQY_WORKER_ACL == "off" or (grant.expires_at_s is not None and grant.expires_at_s <= now_s):
        return False
    if grant.key.startswith(_ENVIRONMENT):
        roles = (Role.WORKER, Role.ADMIN)
        return grant.key in [_key_reference(Identity(role=role, name="")) for role in roles]
    key = _find_key(grant.key, snapshot)
    return key is not None and (not key.queues or grant.queue in key.queues)


def _find_key(key_id: str, snapshot: Snapshot) -> PublishedKey | None:
    document = snapshot.find(Kind.API_KEY, key_id)
    return None if document is None or document.body is None else read_json(document.body, PublishedKey)


def _expires_at_s(key: str, snapshot: Snapshot) -> float | None:
    published = None if key.startswith(_ENVIRONMENT) else _find_key(key, snapshot)
    return published.expires_at.timestamp() if published is not None and published.expires_at else None


def _key_reference(identity: Identity) -> str:
    """Return the id of a key's row, or what changes with the key of that role in the environment."""
    if identity.key_id:
        return identity.key_id
    key = settings.RUNQY_API_KEY if identity.role is Role.ADMIN else settings.RUNQY_WORKER_API_KEY
    return _ENVIRONMENT + _mac("environment", identity.role, key)[:32]


def _field(grant: _Grant) -> str:
    return f"{grant.user}/{grant.worker_id}"


def _sign(grant: _Grant) -> StoredUser:
    """Return a registration's part as it stands in Redis."""
    body, place = msgspec.json.encode(grant), _field(grant)
    return StoredUser(field=place, content=_mac("grant", place, body).encode() + b" " + body)


def _verify(stored: StoredUser) -> _Grant | None:
    """Return what is stored; None unless this server signed it for this very field, in a form of this version."""
    mac, _, body = stored.content.partition(b" ")
    if not hmac.compare_digest(mac, _mac("grant", stored.field, body).encode()):
        return None
    try:
        return read_json(body, _Grant)
    except msgspec.DecodeError:
        return None


def _mac(*parts: str | bytes) -> str:
    """Return what only this server can derive from some texts, 32 bytes in hex."""
    message = b"\0".join(part.encode() if isinstance(part, str) else part for part in parts)
    return hmac.new(_secret(settings.SECRET_KEY), message, hashlib.sha256).hexdigest()


@lru_cache(maxsize=8)
def _secret(secret_key: str) -> bytes:
    """Derive the key of this module from the server's secret key."""
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=b"runqy Redis users of workers").derive(
        secret_key.encode()
    )
