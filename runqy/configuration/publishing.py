"""Write the published configuration to Redis, compare it with the database, and repair it.

The process that commits a change publishes it. Maintenance publishes what was missed and replaces what was altered.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

import structlog
from django.conf import settings

from runqy.broker import configuration_documents
from runqy.broker.configuration_documents import PublishedState, QueueRevision
from runqy.broker.constants import BATCH_MAX_BYTES
from runqy.configuration import snapshot
from runqy.configuration.documents import (
    Document,
    DocumentKind,
    InvalidSignature,
    sign,
    sign_revisions,
    signing_key,
    verify,
    verify_revisions,
)
from runqy.configuration.models import StoredDocument
from runqy.errors import BrokerUnavailable
from runqy.redis_connection import get_broker

log = structlog.get_logger()

MAX_CONFLICTS = 20
"""How often other processes may publish first. Each of them publishes everything committed by then."""
_DOCUMENTS_AT_ONCE = 500


class PublicationProblem(StrEnum):
    """How the list of revisions in Redis differs from the database."""

    MISSING = "missing"
    ALTERED = "altered"  # not signed by this server
    OUTDATED = "outdated"  # a change is not published yet, or an older state was put back
    AHEAD = "ahead"  # the database was restored from a backup, or belongs to another instance


@dataclass(slots=True, kw_only=True)
class SyncStatus:
    """How Redis and the database differ. Lists contain fields of documents."""

    problem: PublicationProblem | None = None
    outdated: list[str] = field(default_factory=list)
    """Not published, or only an older revision."""
    altered: list[str] = field(default_factory=list)
    """Not as the server published them."""
    ahead: list[str] = field(default_factory=list)
    """Newer in Redis, or unknown to the database."""
    queues: list[QueueRevision] = field(default_factory=list)
    """Revisions that workers do not see yet."""
    newest: int = 0
    """The highest revision in Redis."""

    @property
    def is_agreed(self) -> bool:
        return not (self.problem or self.outdated or self.altered or self.ahead or self.queues)

    @property
    def detail(self) -> str:
        """Return how Redis and the database differ, and what to do; empty if they agree."""
        if self.is_agreed:
            return ""
        if self.ahead:
            return (
                "Redis has a newer configuration than the database, which was restored from a backup or belongs to "
                "another instance. `runqy manage publish_configuration --replace` publishes that of the database."
            )
        if self.altered or self.problem is PublicationProblem.ALTERED:
            return (
                "The published configuration in Redis was altered. Servers do not use it, and maintenance repairs it "
                "within seconds. The log has details."
            )
        return (
            "Some changes are not published yet, or an older configuration was put back in Redis. Maintenance, if it "
            "runs, publishes the current one within seconds."
        )


def publish(*, altered: Collection[str] = (), removed: Sequence[str] = ()) -> None:
    """Publish what is newer in the database than in Redis, and notify workers. Raise BrokerUnavailable.

    `altered` documents are published again, `removed` ones deleted.
    """
    broker, key, again, conflicts = get_broker(), signing_key(settings.SECRET_KEY), {*altered}, 0
    while conflicts < MAX_CONFLICTS:
        # Redis before the database, and the script stores nothing if the list has changed since: what is stored is
        # never older than what it replaces.
        seen = broker.run(configuration_documents.read_revisions())
        published = _read_list(seen, key) or {}
        rows = list(StoredDocument.objects.defer("body"))
        due = [row for row in rows if row.field in again or published.get(row.field, -1) < row.revision]
        if not due and not removed and published:
            return
        documents = _read_documents(due)
        revisions = sign_revisions(published | {each.field: each.revision for each in documents}, key)
        signed = {each.field: sign(each, key) for each in documents}
        request = configuration_documents.publish(signed, removed=removed, seen_revisions=seen, revisions=revisions)
        if not broker.run(request):
            conflicts += 1
            continue
        # A large change takes several rounds. What is stored now is not due in the next one.
        removed = ()
        again -= signed.keys()
        # If the process ends before this, maintenance finds the revisions that workers do not see yet.
        queues = _queue_revisions(rows, changed=signed.keys())
        if queues:
            broker.run(configuration_documents.publish_queue_revisions(queues))
        if len(documents) == len(due):
            return
    raise BrokerUnavailable("Other processes kept publishing; maintenance publishes the rest.")


def compare_configuration() -> SyncStatus:
    """Compare Redis with the database. Raise BrokerUnavailable."""
    # Redis first: a change that is saved meanwhile makes the database newer, and Redis never seems to be ahead.
    state, key = get_broker().run(configuration_documents.read_all()), signing_key(settings.SECRET_KEY)
    published = _read_list(state.revisions, key) or {}
    rows = list(StoredDocument.objects.all())
    known = {row.field: row.revision for row in rows}
    status = SyncStatus(problem=_compare_list(state.revisions, known), newest=max(published.values(), default=0))
    for row in rows:
        revision = published.get(row.field, -1)
        if revision > row.revision:
            status.ahead.append(row.field)
        elif revision < row.revision:
            status.outdated.append(row.field)
        elif state.documents.get(row.field) != sign(row.as_document(), key):
            status.altered.append(row.field)
    status.ahead += sorted(published.keys() - known.keys())
    status.altered += sorted(state.documents.keys() - known.keys() - published.keys())
    status.queues = [
        replace(each, overwrites=state.queue_revisions.get(each.queue, ""))
        for each in _queue_revisions(rows)
        if state.queue_revisions.get(each.queue) != str(each.revision)
    ]
    return status


def find_publication_problem() -> PublicationProblem | None:
    """Compare the list of revisions in Redis with the newest snapshot. Raise BrokerUnavailable."""
    content = get_broker().run(configuration_documents.read_revisions())
    known = snapshot.get_newest().revisions
    return _compare_list(content, known) if content or known else None


def published_documents(kind: DocumentKind) -> dict[str, Document | None]:
    """Return the published documents of a kind by name; None if not signed. Raise BrokerUnavailable."""
    state, key = get_broker().run(configuration_documents.read_all()), signing_key(settings.SECRET_KEY)
    found: dict[str, Document | None] = {}
    for each in sorted(state.documents):
        if each.startswith(f"{kind}:"):
            found[each.partition(":")[2]] = _verify(each, state, key)
    return found


def republish_configuration() -> SyncStatus:
    """Publish what is missing, outdated or altered in Redis; log what only Redis has. Raise BrokerUnavailable.

    Other processes may publish, or do the same, meanwhile.
    """
    status = compare_configuration()
    if status.outdated or status.altered or status.problem not in {None, PublicationProblem.AHEAD}:
        stored = {row.field for row in StoredDocument.objects.only("kind", "name")}
        publish(altered=status.altered, removed=[each for each in status.altered if each not in stored])
        if status.problem is not PublicationProblem.MISSING:  # not on an empty Redis
            log.info("configuration_republished", documents=status.outdated)
    if status.queues:
        get_broker().run(configuration_documents.publish_queue_revisions(status.queues))
    if status.altered or status.problem is PublicationProblem.ALTERED:
        log.error("published_configuration_refused", problem=status.problem, documents=status.altered)
    if status.ahead:
        hint = "after a restore: runqy manage publish_configuration --replace"
        log.warning("redis_ahead_of_database", documents=status.ahead, hint=hint)
    return status


def _compare_list(content: bytes, known: Mapping[str, int]) -> PublicationProblem | None:
    if not content:
        return PublicationProblem.MISSING
    published = _read_list(content, signing_key(settings.SECRET_KEY))
    if published is None:
        return PublicationProblem.ALTERED
    if published == known:
        return None
    is_ahead = any(revision > known.get(each, -1) for each, revision in published.items())
    return PublicationProblem.AHEAD if is_ahead else PublicationProblem.OUTDATED


def _read_list(content: bytes, key: bytes) -> dict[str, int] | None:
    try:
        return verify_revisions(content, key)
    except InvalidSignature:
        return None


def _verify(field_name: str, state: PublishedState, key: bytes) -> Document | None:
    try:
        return verify(field_name, state.documents[field_name], key)
    except InvalidSignature:
        return None


def _read_documents(rows: Sequence[StoredDocument]) -> list[Document]:
    """Return the documents of the first rows, as many as Redis can store without blocking others for long."""
    revisions = {row.pk: row.revision for row in rows[:_DOCUMENTS_AT_ONCE]}
    documents: list[Document] = []
    size = 0
    for row in StoredDocument.objects.in_bulk([*revisions]).values():
        if row.revision != revisions[row.pk]:
            continue  # saved since: its revision for workers is not in `rows`, so it comes with the next ones
        documents.append(row.as_document())
        size += len(documents[-1].body or b"")
        if size > BATCH_MAX_BYTES:
            break
    return documents


def _queue_revisions(rows: Sequence[StoredDocument], *, changed: Iterable[str] | None = None) -> list[QueueRevision]:
    """Return the revisions of queues; with `changed`, only of those that use one of these documents.

    Deleted queues have a revision too, so that their workers register again.
    """
    worker_revisions = {row.field: row.worker_revision for row in rows}
    wanted = None if changed is None else {*changed}
    return [
        QueueRevision(queue=row.name, revision=max(worker_revisions.get(each, 0) for each in (row.field, *row.uses)))
        for row in rows
        if row.kind == DocumentKind.QUEUE and (wanted is None or not wanted.isdisjoint((row.field, *row.uses)))
    ]
