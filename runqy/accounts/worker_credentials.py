"""A Redis user for each worker process, deleted with the API key that the worker registered with.

Grants are signed and stored in Redis, so that registering does not need the database, and so that maintenance can
create users again that Redis has lost. Names and passwords are derived from the secret key. No password is stored, and
registering again gives the same one on any web process.
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import structlog
from django.conf import settings

from runqy import clock
from runqy.accounts.identities import PublishedKey
from runqy.broker.broker import Broker
from runqy.broker.workers import redis_users as acl
from runqy.broker.workers.redis_users import RedisUser, StoredUser
from runqy.configuration.documents import DocumentKind
from runqy.configuration.snapshot import Snapshot, get_newest, get_snapshot
from runqy.core import signing
from runqy.core.api_keys import Identity, Role
from runqy.core.formats.json_decoding import read_json
from runqy.core.telemetry.failure_log import FailureLog
from runqy.errors import BrokerCommandRefused, BrokerRefused, BrokerUnavailable
from runqy.redis_connection import get_broker

log = structlog.get_logger(__name__)

READ_EVERY_S = 10.0
"""The interval at which grants and heartbeats are read while no user is missing."""
SILENT_S = 120.0
"""A worker that sends no heartbeat for this long loses its user. Only time while Redis is available counts."""
REFUSED_RETRY_S = 10.0
"""How long maintenance waits after Redis refused to list users."""

_ENVIRONMENT = "environment:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Redis credentials of a worker."""

    username: str
    password: str = field(repr=False)


class _Grant(msgspec.Struct, frozen=True, kw_only=True):
    """A registration's part of a Redis user."""

    user: str
    password_sha256: str
    instance_id: str
    worker_id: str
    queue: str
    """The name of the queue, not of a Redis queue."""
    redis_queues: tuple[str, ...]
    key: str
    """See `_key_reference`."""
    registered_at_us: int
    expires_at_s: float | None
    """When the API key expires."""


def grant_redis_user(
    identity: Identity, *, instance_id: str, worker_id: str, queue: str, redis_queues: Sequence[str]
) -> Credentials | None:
    """Give the Redis user of a worker process access to Redis queues. Create the user if it does not exist.

    Return None if Redis does not let this server create users. Raise WorkerIdTaken if the process registered with
    another key, BrokerUnavailable, ConfigurationUnavailable.
    """
    broker = get_broker()
    key = _key_reference(identity)
    name = _name_prefix(key) + _mac("name", key, instance_id)[:16]
    now_us = broker.now_ns() // 1000
    password = _mac("password", name)
    grant = _Grant(
        user=name,
        password_sha256=hashlib.sha256(password.encode()).hexdigest(),
        instance_id=instance_id,
        worker_id=worker_id,
        queue=queue,
        redis_queues=tuple(redis_queues),
        key=key,
        registered_at_us=now_us,
        expires_at_s=_expires_at_s(key, get_snapshot()),
    )
    stored = _sign(grant)
    # The grant first: maintenance deletes users without a stored grant.
    broker.run(acl.store_user(broker, stored, instance_id=instance_id, owner=key))
    try:
        broker.run(acl.create_users(broker, _users([grant]), target=settings.RUNQY_WORKER_REDIS_TARGET))
    except (BrokerRefused, BrokerCommandRefused) as error:
        log.warning("redis_users_refused", error=str(error))
        broker.run(acl.remove_stored_users([stored]))
        broker.run(acl.remove_instance(instance_id))
        return None
    return Credentials(username=name, password=password)


def remove_users_of_keys(key_ids: Collection[str]) -> None:
    """Delete the Redis users that workers got with these API keys, and close their connections.

    While Redis is unavailable, maintenance does it later. Users of other keys are not read, as there may be many.
    """
    try:
        broker = get_broker()
        stored = [part for key in key_ids for part in broker.run(acl.find_users(broker, _name_prefix(key)))]
        of_keys = [part for part in stored if (grant := _verify(part)) is not None and grant.key in key_ids]
        if of_keys:
            broker.run(acl.remove_stored_users(of_keys))
            broker.run(acl.delete_users(broker, {part.field.partition("/")[0] for part in of_keys}))
    except (BrokerUnavailable, BrokerCommandRefused) as error:
        log.warning("redis_users_not_removed", key_ids=[*key_ids], error=str(error))


def may_create_users(broker: Broker) -> bool:
    """Return whether Redis lets this server manage users. Raise BrokerUnavailable."""
    try:
        broker.run(acl.list_users(broker))
    except (BrokerRefused, BrokerCommandRefused):
        return False
    return True


class RedisUserReconciler:
    """Makes the users on all Redis servers agree with the grants of valid keys and live workers.

    Several processes may do so at the same time.
    """

    def __init__(self, *, has_redis_queue: Callable[[str, str], bool] = lambda _queue, _redis_queue: True) -> None:
        """`has_redis_queue(queue, redis_queue)` returns whether a queue has a Redis queue now.

        Access to a deleted sub-queue is withdrawn, because another queue may have its name by now.
        """
        self._has_redis_queue = has_redis_queue
        # Grants when they were last read, by field, without those that have ended.
        self._parts: dict[str, tuple[StoredUser, _Grant]] = {}
        self._read_at_s = float("-inf")
        self._refused_until_s = float("-inf")
        self._failures = FailureLog("redis_users_accepted")
        self._silent_since_s: dict[str, float] = {}
        # Users that this process has set, and with what registrations granted them, by server and name.
        self._done: dict[str, dict[str, tuple[RedisUser, RedisUser]]] = {}

    def run(self, broker: Broker) -> None:
        """Create missing users and delete obsolete ones. Raise BrokerUnavailable, ConfigurationUnavailable."""
        if clock.monotonic_s() < self._refused_until_s:
            return
        try:
            present = broker.run(acl.list_users(broker))
            if self._is_read_due(present, broker.run(acl.count_stored_users())):
                self._read(broker)
            self._drop_invalid(broker)
            self._reconcile(broker, present)
        except (BrokerRefused, BrokerCommandRefused) as error:
            self._refused_until_s = clock.monotonic_s() + REFUSED_RETRY_S
            if self._parts or settings.RUNQY_WORKER_ACL == "required":
                self._failures.record("redis_users_refused", key=str(error), error=str(error))
        else:
            self._failures.record_success()

    def _is_read_due(self, present: dict[str, frozenset[str]], stored: int) -> bool:
        """Return whether grants must be read again: after READ_EVERY_S, or when users or grants differ from the known
        ones.
        """
        known = frozenset(grant.user for _, grant in self._parts.values())
        # The number of grants too: Redis may restart right after a user was created, and keep only the grant.
        is_old = clock.monotonic_s() - self._read_at_s >= READ_EVERY_S
        return is_old or stored != len(self._parts) or any(names != known for names in present.values())

    def _read(self, broker: Broker) -> None:
        instances = broker.run(acl.read_instances())  # first, without those of workers that register meanwhile
        parts, refused = {}, []
        for part in broker.run(acl.read_users()):
            grant = _verify(part)
            if grant is None:
                refused.append(part)
            else:
                parts[part.field] = (part, grant)
        if refused:
            log.error("redis_user_records_refused", fields=[part.field for part in refused], reason="wrong signature")
            broker.run(acl.remove_stored_users(refused))
        if over := self._find_ended(broker, [grant for _, grant in parts.values()]):
            log.info("redis_users_deleted", workers=sorted(parts[field_name][1].worker_id for field_name in over))
            broker.run(acl.remove_stored_users([parts.pop(field_name)[0] for field_name in over]))
        known = {grant.instance_id for _, grant in parts.values()}
        if ended := [instance for instance in instances if instance.field not in known]:
            broker.run(acl.remove_instances(ended))
        self._parts = parts
        self._read_at_s = clock.monotonic_s()

    def _find_ended(self, broker: Broker, grants: Sequence[_Grant]) -> list[str]:
        """Return the fields of grants whose workers deregistered or have sent no heartbeat for SILENT_S."""
        if not grants:
            return []
        now_s, silent_since_s, over = clock.monotonic_s(), {}, []
        ended = broker.run(acl.read_heartbeat_times([grant.worker_id for grant in grants], now_s=broker.now_s()))
        for grant, ended_us in zip(grants, ended, strict=True):
            if ended_us is None:
                continue
            name = _field(grant)
            silent_since_s[name] = self._silent_since_s.get(name, now_s)
            if ended_us >= grant.registered_at_us or now_s - silent_since_s[name] >= SILENT_S:
                over.append(name)
        self._silent_since_s = silent_since_s
        return over

    def _drop_invalid(self, broker: Broker) -> None:
        """Drop the grants of revoked and expired keys; all of them if RUNQY_WORKER_ACL is off."""
        invalid = self._find_invalid(get_snapshot(), broker.now_s()) if self._parts else []
        if invalid:  # a key may be newer than this process's snapshot
            invalid = self._find_invalid(get_newest(), broker.now_s())
        if invalid:
            log.info("redis_users_revoked", workers=sorted(self._parts[name][1].worker_id for name in invalid))
            broker.run(acl.remove_stored_users([self._parts.pop(name)[0] for name in invalid]))

    def _find_invalid(self, snapshot: Snapshot, now_s: int) -> list[str]:
        return [name for name, (_, grant) in self._parts.items() if not _is_valid(grant, snapshot, now_s)]

    def _reconcile(self, broker: Broker, present: dict[str, frozenset[str]]) -> None:
        """Delete users without a grant, and set those that a server lacks or that have other rights there."""
        grants = [grant for _, grant in self._parts.values()]
        pairs = zip(_users(self._narrowed(grants)), _users(grants), strict=True)
        wanted = {user.name: (user, granted) for user, granted in pairs}
        surplus = frozenset[str]().union(*present.values()) - wanted.keys()
        if surplus:
            broker.run(acl.delete_users(broker, surplus))
        for node, names in present.items():
            self._reconcile_node(broker, node, names, wanted)
        self._done = dict.fromkeys(present, wanted)

    def _narrowed(self, grants: Sequence[_Grant]) -> list[_Grant]:
        """Return grants without the Redis queues that their queues no longer have."""
        given = {(grant.queue, name) for grant in grants for name in grant.redis_queues}
        kept = {pair for pair in given if self._has_redis_queue(*pair)}
        return [
            msgspec.structs.replace(
                grant, redis_queues=tuple(name for name in grant.redis_queues if (grant.queue, name) in kept)
            )
            for grant in grants
        ]

    def _reconcile_node(
        self, broker: Broker, node: str, names: frozenset[str], wanted: Mapping[str, tuple[RedisUser, RedisUser]]
    ) -> None:
        """Set the users of one server that differ from their grants."""
        target, done = settings.RUNQY_WORKER_REDIS_TARGET, self._done.get(node)
        if done is not None and not done.keys() & wanted.keys() <= names:
            done = {}  # it restarted: what was set is lost, and other processes may have created some users again
        narrowing, growing = [], []
        for name, (user, granted) in wanted.items():
            before = done.get(name) if done is not None else None
            if before == (user, granted) and name in names:
                continue
            # Where rights only grow they are only added, so that a concurrent registration keeps what it was granted.
            is_known = done is not None and (before is None or user.extends(before[0]))
            # A registration gave the user all that was granted, also access to a sub-queue that may be gone by now.
            if name not in names or (is_known and user == granted):
                growing.append(user)
            else:
                narrowing.append(user)
        broker.run(acl.set_users(broker, node, growing, target=target))
        broker.run(acl.set_users(broker, node, narrowing, target=target, is_narrowing=True))
        if narrowing:
            self._read_at_s = float("-inf")  # a concurrent registration may have lost its new rights


def _users(grants: Iterable[_Grant]) -> list[RedisUser]:
    """Return the users that result from grants: one for each process, with the queues of all its registrations."""
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
    if settings.RUNQY_WORKER_ACL == "off" or (grant.expires_at_s is not None and grant.expires_at_s <= now_s):
        return False
    if grant.key.startswith(_ENVIRONMENT):
        roles = (Role.WORKER, Role.ADMIN)
        return grant.key in [_key_reference(Identity(role=role, name="")) for role in roles]
    key = _find_key(grant.key, snapshot)
    return key is not None and (not key.queues or grant.queue in key.queues)


def _find_key(key_id: str, snapshot: Snapshot) -> PublishedKey | None:
    document = snapshot.find(DocumentKind.API_KEY, key_id)
    return None if document is None or document.body is None else read_json(document.body, PublishedKey)


def _name_prefix(key: str) -> str:
    """Return the prefix of the names of a key's Redis users. Other keys hardly ever share it."""
    return acl.PREFIX + _mac("key", key)[:8]


def _expires_at_s(key: str, snapshot: Snapshot) -> float | None:
    published = None if key.startswith(_ENVIRONMENT) else _find_key(key, snapshot)
    return published.expires_at.timestamp() if published is not None and published.expires_at else None


def _key_reference(identity: Identity) -> str:
    """Return the id of a key; for a key of the environment, a value derived from it and its role."""
    if identity.key_id:
        return identity.key_id
    key = settings.RUNQY_API_KEY if identity.role is Role.ADMIN else settings.RUNQY_WORKER_API_KEY
    return _ENVIRONMENT + _mac("environment", identity.role, key)[:32]


def _field(grant: _Grant) -> str:
    return f"{grant.user}/{grant.worker_id}"


def _sign(grant: _Grant) -> StoredUser:
    name = _field(grant)
    return StoredUser(field=name, content=signing.sign(_key(), b"grant", name.encode(), msgspec.json.encode(grant)))


def _verify(stored: StoredUser) -> _Grant | None:
    """Return a grant; None unless this server signed it for this field, in the format of this version."""
    body = signing.verify(_key(), b"grant", stored.field.encode(), signed=stored.content)
    try:
        return None if body is None else read_json(body, _Grant)
    except msgspec.DecodeError:
        return None


def _mac(*parts: str) -> str:
    return signing.mac(_key(), *(part.encode() for part in parts)).decode()


def _key() -> bytes:
    return signing.derive_key(settings.SECRET_KEY, "runqy Redis users of workers")
