"""Gives the queues as they are published, without asking the database."""

from collections.abc import Callable, Iterable
from typing import ParamSpec, TypeVar

from django.conf import settings

from queues.definitions import Limits, QueueDefinition, QueueSpec
from queues.names import AllowedQueues, QueueCatalog, ResolvedQueue
from runqy.broker.operation import Operation
from runqy.connection import get_broker
from runqy.errors import QueueNotFound
from runqy.publication.documents import Kind, field, token
from runqy.publication.snapshot import MAX_AGE_S, Snapshot, current_snapshot, get_newest, get_snapshot
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
    return current_snapshot().view("catalog", _catalog)


def get_fresh_catalog(max_age_s: float = MAX_AGE_S) -> QueueCatalog:
    """Return all queues, compared with Redis no longer than this ago; 0 compares now.

    Raises ConfigurationUnavailable.
    """
    return get_snapshot(max_age_s).view("catalog", _catalog)


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

    A sentence for each vault that is missing and entry that does not open (of many in a vault for the first), or one
    where the server has no master key; none for a queue that workers can serve, or that is not published. Asks no
    database, and opens a vault once however many queues use it. Raises ConfigurationUnavailable.
    """
    catalog = get_fresh_catalog()
    found: dict[str, list[str]] = {}
    for name in names:
        queue = catalog.find_queue(name)
        deployment = queue.deployment if queue else None
        found[name] = find_vault_problems(deployment.vaults, git_token=deployment.git_token) if deployment else []
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


def _catalog(snapshot: Snapshot) -> QueueCatalog:
    """Build the catalog of a snapshot."""
    limits, definitions, revisions = default_limits(), [], {}
    for name, document in snapshot.of_kind(Kind.QUEUE).items():
        spec = QueueSpec.decode(document.body or b"")
        definitions.append(QueueDefinition.of(spec, limits))
        revisions[name] = _revision(snapshot, spec)
    return QueueCatalog(definitions, separator=settings.RUNQY_SUBQUEUE_SEPARATOR, revisions=revisions)


def _revision(snapshot: Snapshot, spec: QueueSpec) -> str:
    """Return the token of a queue, spelled as Redis tells it to workers."""
    places = (field(Kind.QUEUE, spec.name), *documents_used(spec))
    return str(token([snapshot.effective_revision_of(place) for place in places]))
