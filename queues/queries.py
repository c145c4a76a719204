"""Gives the queues as they are published, without asking the database."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from django.conf import settings

from queues.definitions import Limits, QueueDefinition, QueueSpec
from queues.names import AllowedQueues, NamedQueue, QueueCatalog, ResolvedQueue, name_redis_queues
from runqy.broker.operation import Operation
from runqy.connection import get_broker
from runqy.errors import QueueNotFound
from runqy.publication.derived import DerivedValue, Snapshot
from runqy.publication.documents import Document, Kind, field, token
from runqy.publication.snapshot import MAX_AGE_S, current_snapshot, get_newest, get_snapshot
from vaults.opening import find_vault_problems

__all__ = [
    "default_limits",
    "documents_used",
    "find_rollout",
    "get_catalog",
    "get_fresh_catalog",
    "queue_vault_problems",
    "resolve_queue",
    "run_operation",
    "with_fresh_catalog",
]

P = ParamSpec("P")
T = TypeVar("T")


def get_catalog() -> QueueCatalog:
    """Return all queues as the process knows them, without I/O. Raises ConfigurationUnavailable."""
    return _CATALOG.of(current_snapshot())


def get_fresh_catalog(max_age_s: float = MAX_AGE_S) -> QueueCatalog:
    """Return all queues, compared with Redis no longer than this ago; 0 compares now.

    Raises ConfigurationUnavailable.
    """
    return _CATALOG.of(get_snapshot(max_age_s))


def with_fresh_catalog(call: Callable[[], T]) -> T:
    """Return what `call` returns on a catalog that was compared with Redis no longer than a second ago.

    When it finds no queue, and a comparison brings something new, it is called again: a queue that another process has
    just saved is found at once. `call` may run operations that look for the queue before they write.
    Raises ConfigurationUnavailable, and what `call` raises.
    """
    before = get_snapshot()
    try:
        return call()
    except QueueNotFound:
        if get_newest() is before:
            raise
    return call()


def run_operation(operation: Callable[P, Operation[T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run an operation on the process's broker with blocking I/O, as `with_fresh_catalog` calls it."""
    return with_fresh_catalog(lambda: get_broker().run(operation(*args, **kwargs)))


def resolve_queue(name: str, *, allowed_queues: AllowedQueues = None) -> ResolvedQueue:
    """Return the Redis queue that a name means, also of a queue that another process has just saved. Blocks.

    Raises QueueNotFound, ConfigurationUnavailable.
    """
    return with_fresh_catalog(lambda: get_catalog().resolve(name, allowed_queues=allowed_queues))


def queue_vault_problems(names: Iterable[str]) -> dict[str, list[str]]:
    """Return for each queue, by its own name, why workers that register for it are refused, as far as vaults are why.

    A sentence for each vault that is missing, entry that does not open (of many in a vault for the first) and git token
    that may not be sent to the repository's host, or one where the server has no master key; none for a queue that
    workers can serve, or that is not published. Asks no database, and opens a vault once however many queues use it.
    Raises ConfigurationUnavailable.
    """
    catalog = get_fresh_catalog()
    found: dict[str, list[str]] = {}
    for name in names:
        queue = catalog.find_queue(name)
        deployment = queue.deployment if queue else None
        found[name] = (
            find_vault_problems(deployment.vaults, git_token=deployment.git_token, git_url=deployment.git_url)
            if deployment
            else []
        )
    return found


def find_rollout(name: str) -> str | None:
    """Return what changes whenever somebody wants a queue's newest commit to run; None: nobody has yet."""
    document = get_snapshot().find(Kind.ROLLOUT, name)
    return str(document.revision) if document else None


def documents_used(spec: QueueSpec) -> list[str]:
    """Return the fields of the documents whose changes are changes of a queue to its workers: vaults, its rollout."""
    vaults = [field(Kind.VAULT, vault) for vault in spec.deployment.vaults_used]
    return [*vaults, field(Kind.ROLLOUT, spec.name)]


def default_limits() -> Limits:
    """Return the limits of queues that state none."""
    return Limits(
        max_retry=settings.RUNQY_DEFAULT_MAX_RETRY,
        ttl_completed_s=settings.RUNQY_DEFAULT_TTL_COMPLETED_S,
        ttl_archived_s=settings.RUNQY_DEFAULT_TTL_ARCHIVED_S,
        pending_timeout_s=settings.RUNQY_DEFAULT_PENDING_TIMEOUT_S,
        active_timeout_s=settings.RUNQY_DEFAULT_ACTIVE_TIMEOUT_S or Limits().active_timeout_s,
        max_waiting_tasks=settings.RUNQY_DEFAULT_MAX_WAITING_TASKS,
    )


@dataclass(frozen=True, slots=True)
class _KnownQueue:
    """What is made of a queue's document alone; it is kept as long as that does not change."""

    definition: QueueDefinition
    named: Sequence[NamedQueue]
    fields: Sequence[str]
    """Of the documents whose changes are changes of the queue to its workers."""


def _catalog(snapshot: Snapshot) -> QueueCatalog:
    """Build the catalog of a snapshot."""
    queues = snapshot.decode(Kind.QUEUE, _decode)
    return QueueCatalog(
        (queue.definition for queue in queues.values()),
        separator=settings.RUNQY_SUBQUEUE_SEPARATOR,
        revisions={name: _revision(snapshot, queue) for name, queue in queues.items()},
        named={name: queue.named for name, queue in queues.items()},
    )


def _decode(document: Document) -> _KnownQueue:
    """Return what a queue's document says, completed by the server's defaults."""
    spec = QueueSpec.decode(document.body or b"")
    definition = QueueDefinition.of(spec, default_limits())
    named = name_redis_queues(definition, settings.RUNQY_SUBQUEUE_SEPARATOR)
    return _KnownQueue(definition, named, (document.field, *documents_used(spec)))


def _revision(snapshot: Snapshot, queue: _KnownQueue) -> str:
    """Return the token of a queue, spelled as Redis tells it to workers."""
    return str(token([snapshot.effective_revision_of(place) for place in queue.fields]))


_CATALOG = DerivedValue(_catalog)
