"""What can be done for workers."""

import secrets
from dataclasses import dataclass, field, replace

import structlog
from django.conf import settings

from queues.definitions import QueueDefinition
from queues.queries import find_rollout, get_fresh_catalog
from runqy.accounts.identity import Identity
from runqy.accounts.redis_users import Credentials, give_redis_user
from runqy.broker.connection import RedisTarget
from runqy.broker.worker_claims import claim_worker_id
from runqy.connection import get_broker
from runqy.errors import BrokerUnavailable, KeyInsufficient, QueueDisabled, RedisUserRequired, RedisUsersRefused
from vaults.deliveries import note_delivery
from vaults.opening import open_vaults

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """All that a worker needs to serve a queue."""

    worker_id: str
    queue: QueueDefinition
    redis_queues: tuple[tuple[str, int], ...]
    """The Redis queues to serve, with their priorities; never empty."""
    revision: str
    """Changes with the configuration of the queue and its vaults; empty: unknown."""
    rollout: str | None
    """Changes whenever somebody wants the newest commit to run."""
    redis: RedisTarget
    lease_s: int
    vaults: dict[str, str] = field(repr=False)
    """The values of all its vaults, decrypted."""
    git_token: str = field(repr=False)

    @property
    def priority(self) -> int:
        """Return the highest of the priorities."""
        return max(priority for _, priority in self.redis_queues)


def register_worker(
    *, queue: str, worker_id: str = "", identity: Identity | None = None, instance_id: str = ""
) -> Registration:
    """Return what a worker needs to serve a queue, or one of its sub-queues, as of now.

    `identity` is that of its key: while the worker lives, no other key registers its id. `instance_id` asks for a Redis
    user, which registrations of one key with the same instance share. What it is handed out of vaults is noted first.
    Raises QueueNotFound, QueueDisabled, WorkerIdTaken, KeyInsufficient where the queue needs a vault that is not
    allowed, VaultLocked, VaultUnavailable, which names all that cannot be opened, and where secrets cannot be noted
    BrokerUnavailable and DeliveryNotRecorded; RedisUserRequired, RedisUsersRefused, or BrokerUnavailable where a Redis
    user cannot be created.
    """
    if not instance_id and settings.RUNQY_WORKER_ACL == "required":
        raise RedisUserRequired
    catalog = get_fresh_catalog(max_age_s=0)  # a worker registers again because something has just changed
    definition, redis_queues = catalog.for_worker(queue, allowed_queues=identity.queues if identity else None)
    if not definition.is_enabled:
        raise QueueDisabled(f"The queue {definition.name} is disabled: it takes no workers.")
    _refuse_vaults(definition, identity.vaults if identity else None)
    worker_id = worker_id or f"worker-{secrets.token_hex(6)}"
    deployment = definition.deployment
    if identity:
        _claim_worker_id(worker_id, identity.owner)
    handout = open_vaults(deployment.vaults, git_token=deployment.git_token, git_url=deployment.git_url)
    redis = settings.RUNQY_WORKER_REDIS_TARGET
    if identity and instance_id and settings.RUNQY_WORKER_ACL != "off":
        credentials = give_redis_user(
            identity,
            instance_id=instance_id,
            worker_id=worker_id,
            queue=definition.name,
            redis_queues=[name for name, _ in redis_queues],
        )
        redis = _with_credentials(redis, credentials)
    if handout.shares:
        note_delivery(worker_id=worker_id, queue=definition.name, shares=handout.shares)
    return Registration(
        worker_id=worker_id,
        queue=definition,
        redis_queues=tuple(redis_queues),
        revision=catalog.queue_revision(definition.name),
        rollout=find_rollout(definition.name),
        redis=redis,
        lease_s=settings.RUNQY_LEASE_S,
        vaults=handout.values,
        git_token=handout.git_token,
    )


def _refuse_vaults(queue: QueueDefinition, allowed_vaults: frozenset[str] | None) -> None:
    """Raise KeyInsufficient if a queue needs vaults beyond those that are allowed."""
    if allowed_vaults is None:
        return
    if refused := [vault for vault in queue.deployment.vaults_used if vault not in allowed_vaults]:
        raise KeyInsufficient(
            f"This key is limited to vaults, and the queue {queue.name} needs {', '.join(refused)}: use a key that may "
            "use them, or take them off the queue."
        )


def _claim_worker_id(worker_id: str, owner: str) -> None:
    """Note whose worker this is. Raises WorkerIdTaken.

    Without Redis nothing is noted: a worker that has lost Redis registers to hear where it is now.
    """
    try:
        get_broker().run(claim_worker_id(worker_id, owner=owner))
    except BrokerUnavailable as error:
        log.warning("worker_id_not_claimed", worker_id=worker_id, error=error.detail)


def _with_credentials(shared: RedisTarget, credentials: Credentials | None) -> RedisTarget:
    """Return how a worker enters Redis: as its own user, or as all others do where Redis lets us create none.

    Raises RedisUsersRefused.
    """
    if credentials is not None:
        return replace(shared, username=credentials.username, password=credentials.password)
    if settings.RUNQY_WORKER_ACL == "required":
        raise RedisUsersRefused
    return shared
