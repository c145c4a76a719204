"""Registration of workers, and requests to them."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import msgspec
import structlog
from django.conf import settings

from queues.catalog import AllowedQueues
from queues.definitions import PublishedRelease, QueueDefinition
from queues.queries import get_fresh_catalog, get_published_releases, hides_payloads
from runqy.accounts.identities import refuse_revoked_key
from runqy.accounts.worker_credentials import grant_redis_user
from runqy.audit.operations import record_in_redis
from runqy.broker.workers.claims import claim_worker_id
from runqy.broker.workers.heartbeats import write_refusal
from runqy.broker.workers.records import WorkerAction, request_action
from runqy.core.api_keys import Identity
from runqy.core.environment.connection_urls import RedisTarget
from runqy.core.git.sources import find_https_host
from runqy.errors import (
    BrokerUnavailable,
    KeyInsufficient,
    QueueDisabled,
    RedisUserRequired,
    RedisUsersRefused,
    RunqyError,
    SharedRedisRefused,
    WorkerUnreachable,
)
from runqy.redis_connection import get_broker
from vaults.access_log import record_delivery
from vaults.worker_secrets import get_worker_secrets
from workers.queries import find_process, get_worker

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
    release: PublishedRelease | None
    """The release to run, whose code `queue` has; None: the newest commit of the branch."""
    replacements: dict[str, int]
    """How often a change was saved that replaces processes at once, by what was changed: the queue or a vault."""
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
    *,
    queue: str,
    worker_id: str = "",
    identity: Identity | None = None,
    instance_id: str = "",
    follows_releases: bool = False,
) -> Registration:
    """Return everything a worker needs to serve a queue or one of its sub-queues.

    `identity` is that of the API key. While the worker lives, no other key can register its id. `instance_id` requests
    a Redis user, which all registrations of one key with the same instance share. A worker that does not follow
    releases, such as Go's, gets the definition as it was saved last.

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
    releases = get_published_releases(definition.name)
    release = releases.of_worker(worker_id) if follows_releases else None
    if release is not None:
        release = msgspec.structs.replace(release, is_proving=release.is_proving and deployment.keep_previous)
        # The token of a definition that names another host must not be sent to this one.
        is_same_host = find_https_host(release.git_url) == find_https_host(deployment.git_url)
        deployment = replace(deployment, **release.code, git_token=deployment.git_token if is_same_host else "")
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
        release=release,
        replacements={"queue": releases.replacements}
        | {f"vault {name}": number for name, number in worker_secrets.replacements.items()},
        redis=redis,
        lease_s=settings.RUNQY_LEASE_S,
        archive_max_tasks=settings.RUNQY_ARCHIVE_MAX_TASKS,
        keeps_output=settings.RUNQY_TASK_OUTPUT and not hides,
        vaults=worker_secrets.values,
        git_token=worker_secrets.git_token,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionRequest:
    """A request to a worker that it carries out with its next heartbeat, within seconds."""

    action: WorkerAction
    worker_id: str
    workers: Sequence[str]
    """The workers that it concerns. With `drain` and `stop` these are all of a process: one for each of its queues."""
    is_connected: bool
    """Whether the worker's heartbeats arrive. If not, it carries out the request when it is back, within a day."""


def request_worker_action(
    worker_id: str, action: WorkerAction, *, allowed_queues: AllowedQueues = None
) -> ActionRequest:
    """Ask a worker to drain, to restart its children, or to stop.

    Raise WorkerNotFound, WorkerUnreachable; KeyInsufficient if its process serves a queue that is not allowed;
    AuditNotRecorded, BrokerUnavailable.
    """
    broker = get_broker()
    worker = get_worker(broker, worker_id, allowed_queues=allowed_queues)
    if obstacle := worker.request_obstacle:
        raise WorkerUnreachable(obstacle)
    ends_process = action is not WorkerAction.RESTART
    workers = find_process(broker, worker.record, allowed_queues=allowed_queues) if ends_process else [worker_id]
    record_in_redis(action=f"worker.{action}_requested", object_kind="worker", object_name=worker_id)
    broker.run(request_action(worker_id, action, request_id=secrets.token_hex(8)))
    return ActionRequest(action=action, worker_id=worker_id, workers=workers, is_connected=not worker.is_stale)


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
        broker = get_broker()
        broker.run(claim_worker_id(broker, worker_id, owner=owner, queue=queue, redis_queues=redis_queues))
    except BrokerUnavailable as error:
        # Not refused: a worker that has lost Redis registers to learn its new address.
        log.warning("worker_id_not_claimed", worker_id=worker_id, error=str(error))


def _record_refusal(worker_id: str, queue: str, reason: str) -> None:
    """List the worker, with the reason, among the workers. Without Redis credentials it cannot do so itself."""
    try:
        broker = get_broker()
        broker.run(write_refusal(broker, worker_id, queue=queue, reason=reason))
    except BrokerUnavailable as error:
        log.warning("refusal_not_recorded", worker_id=worker_id, error=str(error))
