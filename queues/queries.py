"""Queries of queues: the catalog in the snapshot, Redis queues, and configurations in the database."""

from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Concatenate, ParamSpec, TypeVar

from django.conf import settings

from queues.catalog import (
    AllowedQueues,
    QueueCatalog,
    RedisQueue,
    ResolvedQueue,
    aliases_by_redis_queue,
)
from queues.definitions import (
    Limits,
    PublishedEndpoint,
    PublishedReleases,
    QueueBase,
    QueueDefinition,
    QueueNotify,
    QueueSpec,
)
from queues.models import Queue
from runqy.broker.broker import Broker
from runqy.broker.queues.stats import read_queue_names
from runqy.broker.request import AnyBroker
from runqy.configuration.documents import Document, DocumentKind, field
from runqy.configuration.models import StoredDocument
from runqy.configuration.snapshot import MAX_AGE_S, Snapshot, SnapshotValue, get_newest, get_snapshot
from runqy.core.formats.json_decoding import read_json
from runqy.errors import QueueNotFound
from runqy.redis_connection import get_broker
from vaults.worker_secrets import list_secret_errors, list_unreadable_vaults

P = ParamSpec("P")
T = TypeVar("T")


def get_catalog() -> QueueCatalog:
    """Return all queues in the snapshot of the process, without I/O. Raise ConfigurationUnavailable."""
    return _CATALOG.current()


def get_fresh_catalog(max_age_s: float = MAX_AGE_S) -> QueueCatalog:
    """Return all queues, at most `max_age_s` old; 0 refreshes them. Raise ConfigurationUnavailable."""
    return _CATALOG.of(get_snapshot(max_age_s))


def get_changed_catalog() -> QueueCatalog:
    """Return all queues as they are in the open change of this process. Raise ConfigurationUnavailable."""
    before = get_snapshot()
    newer = StoredDocument.objects.filter(revision__gt=max(before.revisions.values(), default=-1))
    documents = {row.field: row.as_document() for row in newer}
    return _CATALOG.of(Snapshot({**before.documents, **documents}, before=before))


def with_fresh_catalog(call: Callable[[], T]) -> T:
    """Return the result of `call` with a catalog that is at most a second old.

    If `call` raises QueueNotFound and there is a newer configuration, it is called again, so that a queue that another
    process has just saved is found at once. `call` must look up the queue before it writes anything. Raise
    ConfigurationUnavailable, and what `call` raises.
    """
    before = get_snapshot()
    try:
        return call()
    except QueueNotFound:
        if get_newest() is before:
            raise
    return call()


def run_with_fresh_catalog(
    operation: Callable[Concatenate[AnyBroker, P], Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
) -> T:
    """Run an operation with blocking I/O, again with a newer catalog as `with_fresh_catalog` says."""
    broker = get_broker()
    return with_fresh_catalog(lambda: broker.run(operation(broker, *args, **kwargs)))


def resolve_queue(name: str, *, allowed_queues: AllowedQueues = None) -> ResolvedQueue:
    """Return the Redis queue that a name means, including queues that another process has just saved. Blocks.

    Raise QueueNotFound, ConfigurationUnavailable.
    """
    return with_fresh_catalog(lambda: get_catalog().resolve(name, allowed_queues=allowed_queues))


def list_vault_errors(names: Iterable[str]) -> dict[str, list[str]]:
    """Return, by queue, the vault errors that keep workers from registering for it.

    There is an error for each missing vault, for the first entry of each vault that cannot be decrypted, and for a git
    token that may not be sent to the repository's host; without a master key there is only one. Queues that are not
    published have none. This needs no database, and decrypts each vault once. Raise ConfigurationUnavailable.
    """
    catalog = get_fresh_catalog()
    found: dict[str, list[str]] = {}
    for name in names:
        queue = catalog.find_queue(name)
        deployment = queue.deployment if queue else None
        found[name] = (
            list_secret_errors(deployment.vaults, git_token=deployment.git_token, git_url=deployment.git_url)
            if deployment
            else []
        )
    return found


def list_unreadable_vaults_of(name: str) -> list[str]:
    """Return the vaults of a queue that have entries which cannot be decrypted.

    Raise VaultLocked, ConfigurationUnavailable.
    """
    queue = get_fresh_catalog().find_queue(name)
    return list_unreadable_vaults(queue.deployment.vaults, git_token=queue.deployment.git_token) if queue else []


HIDDEN = "hidden from your role"
"""Replaces content that a user or key may not view because of `hide_payloads` or `RUNQY_HIDE_PAYLOADS`."""


def hides_payloads(name: str, catalog: QueueCatalog | None) -> bool:
    """Return whether payloads, results and errors of a queue are hidden, and not stored in the history.

    They are if the setting or the queue says so, and if that is unknown: without a catalog, and for a name without a
    definition, which may have hidden them before it was deleted. `name` is that of a queue or of a Redis queue. If it
    is empty all queues are meant, and one that hides them is enough.
    """
    if settings.RUNQY_HIDE_PAYLOADS or catalog is None:
        return True
    if not name:
        return any(queue.deployment.hide_payloads for queue in catalog.definitions)
    resolved = catalog.find(name)
    queue = catalog.find_queue(name) or (resolved.queue if resolved else None)
    return queue is None or queue.deployment.hide_payloads


def get_published_releases(name: str) -> PublishedReleases:
    """Return the live release of a queue and the one that is rolling out, as far as there are any."""
    document = get_snapshot().find(DocumentKind.RELEASES, name)
    return read_json(document.body or b"", PublishedReleases) if document else PublishedReleases()


def documents_used(spec: QueueBase) -> list[str]:
    """Return the fields of the other documents that a queue uses: vaults, releases, existing Redis queues."""
    vaults = [field(DocumentKind.VAULT, vault) for vault in spec.deployment.referenced_vaults]
    return [*vaults, field(DocumentKind.RELEASES, spec.name), field(DocumentKind.REDIS_QUEUES, spec.name)]


def default_limits() -> Limits:
    return Limits(
        max_retry=settings.RUNQY_DEFAULT_MAX_RETRY,
        ttl_completed_s=settings.RUNQY_DEFAULT_TTL_COMPLETED_S,
        ttl_archived_s=settings.RUNQY_DEFAULT_TTL_ARCHIVED_S,
        pending_timeout_s=settings.RUNQY_DEFAULT_PENDING_TIMEOUT_S,
        active_timeout_s=settings.RUNQY_DEFAULT_ACTIVE_TIMEOUT_S or Limits().active_timeout_s,
        max_waiting_tasks=settings.RUNQY_DEFAULT_MAX_WAITING_TASKS,
    )


@dataclass(frozen=True, slots=True)
class _DecodedQueue:
    """The result of decoding a queue's document, cached until the document changes."""

    definition: QueueDefinition
    fields: Sequence[str]
    """The fields of the documents that the queue's workers use, including its own."""


def _catalog(snapshot: Snapshot) -> QueueCatalog:
    queues = snapshot.decode(DocumentKind.QUEUE, _decode)
    endpoints = snapshot.decode(DocumentKind.ENDPOINT, _decode_endpoint).values()
    return QueueCatalog(
        (_with_notify(queue.definition, endpoints) for queue in queues.values()),
        separator=settings.RUNQY_SUBQUEUE_SEPARATOR,
        revisions={name: str(snapshot.worker_revision(queue.fields)) for name, queue in queues.items()},
        existing=snapshot.decode(DocumentKind.REDIS_QUEUES, _decode_names),
    )


_CATALOG = SnapshotValue(_catalog)


def _decode(document: Document) -> _DecodedQueue:
    spec = QueueSpec.decode(document.body or b"")
    return _DecodedQueue(QueueDefinition.of(spec, default_limits()), (document.field, *documents_used(spec)))


def _with_notify(queue: QueueDefinition, endpoints: Collection[PublishedEndpoint]) -> QueueDefinition:
    return replace(queue, notify=QueueNotify.of(queue.name, endpoints)) if endpoints else queue


def _decode_endpoint(document: Document) -> PublishedEndpoint:
    return read_json(document.body or b"", PublishedEndpoint)


def _decode_names(document: Document) -> frozenset[str]:
    return read_json(document.body or b"[]", frozenset[str])


def resolve_redis_queue(broker: Broker, name: str, *, allowed_queues: AllowedQueues = None) -> RedisQueue:
    """Return the Redis queue that a name means, with a round trip only if it has no definition. Raise QueueNotFound."""
    try:
        return resolve_queue(name, allowed_queues=allowed_queues)
    except QueueNotFound:
        if allowed_queues is None and name in broker.run(read_queue_names()):
            return RedisQueue(redis_queue=name)
        raise


def list_redis_queues(broker: Broker, *, allowed_queues: AllowedQueues = None) -> list[RedisQueue]:
    """Return all Redis queues: first those with a definition, then those that exist only in Redis."""
    catalog = get_fresh_catalog(max_age_s=0)  # users expect queues that another process has just saved
    if allowed_queues is not None:
        return [each for each in catalog.all_redis_queues() if each.queue.name in allowed_queues]
    defined = {each.redis_queue: each for each in catalog.all_redis_queues()}
    undefined = [RedisQueue(redis_queue=name) for name in broker.run(read_queue_names()) if name not in defined]
    return [*defined.values(), *undefined]


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueConfig:
    """The configuration of a queue, or of one of its sub-queues."""

    spec: QueueSpec
    sub_queue: str
    """Empty for the whole queue."""
    is_listed: bool = False
    """Whether it is an item of a list, which has an item for each Redis queue."""
    source: str
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, row: Queue, sub_queue: str = "", *, is_listed: bool = False) -> "QueueConfig":
        times = {"created_at": row.created_at, "updated_at": row.updated_at}
        return cls(spec=row.as_spec(), sub_queue=sub_queue, is_listed=is_listed, source=row.source, **times)

    @property
    def redis_queue(self) -> str:
        """The name of the Redis queue; the queue's own name for a whole queue that is not an item of a list."""
        separator = settings.RUNQY_SUBQUEUE_SEPARATOR
        if self.sub_queue:
            return f"{self.spec.name}{separator}{self.sub_queue}"
        return self.spec.redis_queues(separator)[0][0] if self.is_listed else self.spec.name

    @property
    def priority(self) -> int:
        """The priority of the sub-queue, or of the whole queue."""
        return next((sub.priority for sub in self.spec.sub_queues if sub.name == self.sub_queue), self.spec.priority)


def list_queue_configs(*, allowed_queues: AllowedQueues = None) -> list[QueueConfig]:
    """Return the configuration of each Redis queue, ordered by the queues' names, from the database."""
    configs = []
    for row in Queue.objects.prefetch_related("sub_queues"):
        if allowed_queues is None or row.name in allowed_queues:
            subs = [sub.name for sub in row.sub_queues.all()] or [""]
            configs += [QueueConfig.of(row, sub, is_listed=True) for sub in subs]
    return configs


def get_queue_config(name: str, *, allowed_queues: AllowedQueues = None) -> QueueConfig:
    """Return the configuration of a queue, or of the sub-queue that a name means. Raise QueueNotFound."""
    for row in Queue.objects.prefetch_related("sub_queues"):
        if allowed_queues is not None and row.name not in allowed_queues:
            continue
        if row.name == name:
            return QueueConfig.of(row)
        for sub, names in zip(row.sub_queues.all() or [None], aliases_by_redis_queue(row.as_spec()), strict=True):
            if name in names:
                return QueueConfig.of(row, sub.name if sub else "")
    raise QueueNotFound(f"No queue {name[:128]!r}.")
