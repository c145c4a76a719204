"""Registration of workers."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import structlog
from django.conf import settings

from queues.definitions import QueueDefinition
from queues.queries import find_redeployment, get_fresh_catalog, hides_payloads
from runqy.accounts.identities import refuse_revoked_key
from runqy.accounts.worker_credentials import grant_redis_user
from runqy.api_keys import Identity
from runqy.broker.connection.redis_client import RedisTarget
from runqy.broker.workers.claims import claim_worker_id
from runqy.broker.workers.heartbeats import write_refusal
from runqy.errors import (
    BrokerUnavailable,
    KeyInsufficient,
    QueueDisabled,
    RedisUserRequired,
    RedisUsersRefused,
    RunqyError,
    SharedRedisRefused,
)
from runqy.redis_connection import get_broker
from vaults.access_log import record_delivery
from vaults.worker_secrets import get_worker_secrets

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """Everything a worker needs to serve a queue."""

    worker_id: str
    queue: QueueDefinition
    redis_queues: tuple[tuple[str, int], ...]
    """The Redis queues to serve, with their priorities. Never empty."""
    revision: str
    """Changes with the configuration of the queue and its vaults; empty if unknown."""
    redeployment: str | None
    """Changes with each redeploy, the request to deploy the newest commit; None before the first."""
    redis: RedisTarget
    lease_s: int
    archive_max_tasks: int
    """How many archived tasks each Redis queue keeps."""
    keeps_output: bool
    """Whether the worker stores what tasks print."""
    vaults: dict[str, str] = field(repr=False)
    """The decrypted values of all vaults of the queue."""
    git_token: str = field(repr=False)

    @property
    def priority(self) -> int:
        return max(priority for _, priority in self.redis_queues)


def register_worker(
    *, queue: str, worker_id: str = "", identity: Identity | None = None, instance_id: str = ""
) -> Registration:
    """Return everything a worker needs to serve a queue or one of its sub-queues.

    `identity` is that of the API key. While the worker lives, no other key can register its id. `instance_id` requests
    a Redis user, which all registrations of one key with the same instance share.

    Raise QueueNotFound or QueueDisabled; WorkerIdTaken; KeyInsufficient if the queue needs a vault that the key may not
    use; VaultLocked; VaultUnavailable, which names all vaults that cannot be decrypted; BrokerUnavailable or
    DeliveryNotRecorded if a delivery of secrets cannot be recorded; RedisUserRequired, SharedRedisRefused,
    RedisUsersRefused or BrokerUnavailable if a Redis user cannot be created.
    """
    # Refreshed, because a worker registers again when something has just changed.
    catalog = get_fresh_catalog(max_age_s=0)
    if identity:
        refuse_revoked_key(identity.key_id)
    if not instance_id and settings.RUNQY_WORKER_ACL == "required":
        raise RedisUserRequired
    definition, redis_queues = catalog.for_worker(queue, allowed_queues=identity.queues if identity else None)
    if not definition.is_enabled:
        raise QueueDisabled(f"The queue {definition.name} is disabled and accepts no workers.")
    worker_id = worker_id or f"worker-{secrets.token_hex(6)}"
    names = [name for name, _ in redis_queues]
    if identity:
        _claim_worker_id(worker_id, identity.owner, definition.name, names)
    deployment = definition.deployment
    try:
        if refused := deployment.find_refused_vaults(identity.vaults if identity else None):
            raise KeyInsufficient(
                f"This key is limited to vaults, and the queue {definition.name} needs {', '.join(refused)}: use a key "
                "that can use them, or remove them from the queue."
            )
        worker_secrets = get_worker_secrets(
            deployment.vaults, git_token=deployment.git_token, git_url=deployment.git_url
        )
        redis = _grant_redis(identity, instance_id, worker_id=worker_id, queue=definition.name, redis_queues=names)
        # Before the response: a secret whose delivery cannot be recorded is not delivered.
        if worker_secrets.grants:
            record_delivery(worker_id=worker_id, queue=definition.name, grants=worker_secrets.grants)
    except BrokerUnavailable:
        raise
    except RunqyError as error:
        if instance_id:  # Go's workers have no id that they keep
            _record_refusal(worker_id, definition.name, error.detail)
        raise
    hides = hides_payloads(definition.name, catalog)
    return Registration(
        worker_id=worker_id,
        queue=replace(definition, deployment=replace(deployment, hide_payloads=hides)),
        redis_queues=tuple(redis_queues),
        revision=catalog.queue_revision(definition.name),
        redeployment=find_redeployment(definition.name),
        redis=redis,
        lease_s=settings.RUNQY_LEASE_S,
        archive_max_tasks=settings.RUNQY_ARCHIVE_MAX_TASKS,
        keeps_output=settings.RUNQY_TASK_OUTPUT and not hides,
        vaults=worker_secrets.values,
        git_token=worker_secrets.git_token,
    )


def _grant_redis(
    identity: Identity | None, instance_id: str, *, worker_id: str, queue: str, redis_queues: Sequence[str]
) -> RedisTarget:
    """Return how a worker connects to Redis: as a user of its own, or as the one that workers share.

    Raise SharedRedisRefused, RedisUsersRefused, WorkerIdTaken, BrokerUnavailable.
    """
    shared = settings.RUNQY_WORKER_REDIS_TARGET
    if identity is None:
        return shared
    if not instance_id or settings.RUNQY_WORKER_ACL == "off":
        if not identity.may_share_redis:
            raise SharedRedisRefused
        return shared
    credentials = grant_redis_user(
        identity, instance_id=instance_id, worker_id=worker_id, queue=queue, redis_queues=redis_queues
    )
    if credentials is not None:
        return replace(shared, username=credentials.username, password=credentials.password)
    if settings.RUNQY_WORKER_ACL == "required":
        raise RedisUsersRefused
    if not identity.may_share_redis:
        raise RedisUsersRefused(
            "The server may not create Redis users, and this key, which is limited to queues, gets no shared "
            "credentials: let the server manage users, or create a key with allow_shared_redis."
        )
    return shared


def _claim_worker_id(worker_id: str, owner: str, queue: str, redis_queues: Sequence[str]) -> None:
    """Record the owner of a worker, and what it registered for. Raise WorkerIdTaken."""
    try:
        get_broker().run(claim_worker_id(worker_id, owner=owner, queue=queue, redis_queues=redis_queues))
    except BrokerUnavailable as error:
        # Not refused: a worker that has lost Redis registers to learn its new address.
        log.warning("worker_id_not_claimed", worker_id=worker_id, error=str(error))


def _record_refusal(worker_id: str, queue: str, reason: str) -> None:
    """List the worker, with the reason, among the workers. Without Redis credentials it cannot do so itself."""
    try:
        get_broker().run(write_refusal(worker_id, queue=queue, reason=reason))
    except BrokerUnavailable as error:
        log.warning("refusal_not_recorded", worker_id=worker_id, error=str(error))
