"""Compare the published configuration in Redis with the database, and repair it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import structlog
from django.conf import settings

from runqy.audit.operations import record
from runqy.broker import config_documents
from runqy.broker.config_documents import PublishedDocument, PublishedState, QueueToken
from runqy.config_sync import operations
from runqy.config_sync.documents import (
    Document,
    DocumentKind,
    Head,
    InvalidSignature,
    is_bare_digest,
    signing_key,
    verify,
    verify_head,
)
from runqy.config_sync.head_check import HeadProblem
from runqy.config_sync.models import StoredDocument
from runqy.config_sync.rollouts import store_rollouts
from runqy.redis_connection import get_broker

log = structlog.get_logger()

_TAMPERED = (HeadProblem.REFUSED, HeadProblem.PUT_BACK, HeadProblem.INCOMPLETE)


@dataclass(slots=True, kw_only=True)
class SyncStatus:
    """How Redis and the database differ. Lists contain fields of documents."""

    outdated: list[str] = field(default_factory=list)
    """Missing in Redis, older there, or not signed by the server."""
    refused: list[str] = field(default_factory=list)
    """Not signed by this server."""
    ahead: list[str] = field(default_factory=list)
    """Signed and newer than the database, which was restored from a backup or belongs to another instance."""
    unknown: list[str] = field(default_factory=list)
    """Only in Redis."""
    rollouts: list[Document] = field(default_factory=list)
    """Newer in Redis: they were requested while the database was unavailable."""
    tokens: list[QueueToken] = field(default_factory=list)
    """Tokens that workers do not see yet."""
    due: list[PublishedDocument] = field(default_factory=list)
    """Signed documents to publish for the outdated ones."""
    newest: int = 0
    """The highest signed revision in Redis."""
    head_problem: HeadProblem | None = None
    """Why the head in Redis differs from that of the database; one that is ahead is not replaced."""
    redis_head: bytes = b""

    @property
    def is_agreed(self) -> bool:
        """Return whether there is nothing to repair or report."""
        has_findings = self.outdated or self.refused or self.ahead or self.unknown or self.rollouts or self.tokens
        return not (has_findings or self.head_problem)

    @property
    def is_tampered(self) -> bool:
        """Return whether Redis has documents that the server did not sign, or signed for an earlier state."""
        return bool(self.refused) or self.head_problem in _TAMPERED

    @property
    def is_ahead(self) -> bool:
        """Return whether Redis has configuration that the database lacks."""
        return bool(self.ahead or self.unknown) or self.head_problem is HeadProblem.AHEAD

    @property
    def problem(self) -> str:
        """Return how Redis and the database differ, and what to do; empty if they agree."""
        if self.is_agreed:
            return ""
        if self.is_ahead:
            return (
                "Redis has a newer configuration than the database, which was restored from a backup or belongs to "
                "another instance. Run manage.py publish_configuration --replace to publish that of the database."
            )
        if self.is_tampered:
            return (
                "The published configuration in Redis was altered or replaced by an older one. Servers do not use it, "
                "and maintenance repairs it within seconds. The log has details."
            )
        return "Some changes are not published yet. Maintenance, if it runs, publishes them within seconds."


def compare_configuration() -> SyncStatus:
    """Compare Redis with the database. Raise BrokerUnavailable.

    Redis is read first: what a saver does meanwhile makes the database newer, never Redis.
    """
    state = get_broker().run(config_documents.read_all())
    rows = list(StoredDocument.objects.all())
    comparison = SyncStatus()
    verified = _verified(state, comparison)
    comparison.newest = max((document.revision for document in verified.values()), default=0)
    for row in rows:
        _compare_document(row, state, verified, comparison)
    _add_unknown(state.documents.keys() - {row.field for row in rows}, verified, comparison)
    _compare_head(rows, state, comparison)
    comparison.tokens = _outdated_tokens(rows, state)
    return comparison


def published_documents(kind: DocumentKind) -> dict[str, Document | None]:
    """Return the published documents of a kind by name; None if not signed. Raise BrokerUnavailable."""
    state = get_broker().run(config_documents.read_all())
    verified = _verified(state, SyncStatus())
    fields = [field_name for field_name in state.documents if field_name.startswith(f"{kind}:")]
    return {field_name.partition(":")[2]: verified.get(field_name) for field_name in sorted(fields)}


def republish_configuration() -> SyncStatus:
    """Publish documents that Redis lacks, or has older or altered; log those only in Redis. Raise BrokerUnavailable.

    Safe beside savers and beside another process that does the same.
    """
    return _republish(_compare_and_store_rollouts())


def _compare_and_store_rollouts() -> SyncStatus:
    """Return how Redis and the database differ after storing the rollouts that only Redis has."""
    comparison = compare_configuration()
    if comparison.rollouts:
        store_rollouts(comparison.rollouts)
        comparison = compare_configuration()
    return comparison


def _republish(comparison: SyncStatus, *, replaces_head: bool = False) -> SyncStatus:
    """Publish what a comparison found; `replaces_head`: also if the head in Redis is ahead."""
    is_head_due = comparison.head_problem not in (None, HeadProblem.AHEAD) or replaces_head
    if comparison.due or is_head_due:
        overwrites = comparison.redis_head if is_head_due else b""
        operations.publish_signed(comparison.due, head_overwrites=overwrites)
        if comparison.outdated or comparison.head_problem is not HeadProblem.MISSING:  # not on an empty Redis
            log.info("configuration_republished", documents=comparison.outdated)
    if comparison.head_problem in _TAMPERED:
        log.error("published_head_refused", reason=comparison.head_problem.value)
    if comparison.tokens:
        get_broker().run(config_documents.publish_queue_tokens(comparison.tokens))
    if comparison.refused:
        log.error("published_documents_refused", documents=comparison.refused)
    if comparison.is_ahead:
        log.warning(
            "redis_is_ahead_of_the_database",
            newer=comparison.ahead,
            unknown=comparison.unknown,
            hint="after a restore: manage.py publish_configuration --replace",
        )
    return comparison


def replace_configuration() -> SyncStatus:
    """Replace the published configuration by the database's, even if Redis is newer: after a restore.

    Raise BrokerUnavailable.
    """
    comparison = _compare_and_store_rollouts()
    with operations.configuration_change(above=comparison.newest) as change:
        for row in StoredDocument.objects.all():
            if row.field in comparison.ahead:
                change.touch(row)
        for field_name in set(comparison.unknown).difference(comparison.refused):
            kind, _, name = field_name.partition(":")
            change.remove(DocumentKind(kind), name)
        if change.touched:
            replaced = {"documents": (None, sorted(change.touched))}
            record(action="configuration.replaced", object_kind="configuration", object_name="redis", changes=replaced)
    if foreign := sorted(set(comparison.unknown).intersection(comparison.refused)):
        get_broker().run(config_documents.remove_documents(foreign))
    _republish(compare_configuration(), replaces_head=True)
    return comparison


def _verified(state: PublishedState, comparison: SyncStatus) -> dict[str, Document]:
    """Return the documents in Redis that the server signed; add the others to `refused`."""
    key = signing_key(settings.SECRET_KEY)
    verified = {}
    for field_name, content in state.documents.items():
        try:
            verified[field_name] = verify(field_name, content, key)
        except InvalidSignature:
            comparison.refused.append(field_name)
    return verified


def _add_unknown(fields: Iterable[str], verified: Mapping[str, Document], comparison: SyncStatus) -> None:
    """Add fields that the database does not know."""
    for field_name in sorted(fields):
        document = verified.get(field_name)
        if document is not None and _is_rollout(document):
            comparison.rollouts.append(document)
        else:
            comparison.unknown.append(field_name)


def _is_rollout(document: Document) -> bool:
    """Return whether a document is a rollout, which may be published without the database."""
    return document.kind is DocumentKind.ROLLOUT and document.body is not None


def _compare_head(rows: Sequence[StoredDocument], state: PublishedState, comparison: SyncStatus) -> None:
    """Set the problem of the head in Redis. Older documents of a head that was put back are outdated anyway."""
    stored = operations.stored_head(rows)
    if state.head is None:
        comparison.head_problem = HeadProblem.MISSING
        return
    comparison.redis_head = state.head
    try:
        published = verify_head(state.head, signing_key(settings.SECRET_KEY))
    except InvalidSignature:
        is_bare = is_bare_digest(state.head)
        comparison.head_problem = HeadProblem.UNSIGNED if is_bare else HeadProblem.REFUSED
        return
    comparison.newest = max(comparison.newest, published.revision)
    with_rollouts = {row.field: row.revision for row in rows} | {d.field: d.revision for d in comparison.rollouts}
    if published in (stored, Head.of(with_rollouts.items())):
        return
    if published.revision > stored.revision:
        comparison.head_problem = HeadProblem.AHEAD
    elif published.revision == stored.revision:
        comparison.head_problem = HeadProblem.INCOMPLETE
    else:
        comparison.head_problem = HeadProblem.BEHIND if comparison.outdated else HeadProblem.PUT_BACK


def _compare_document(
    row: StoredDocument, state: PublishedState, verified: dict[str, Document], comparison: SyncStatus
) -> None:
    """Add a row's document if it should be published, or is newer in Redis."""
    claimed = state.revisions.get(row.field, "")
    published = verified.get(row.field)
    if published is not None and published.revision > row.revision:
        if _is_rollout(published):
            comparison.rollouts.append(published)
        else:
            comparison.ahead.append(row.field)
        return
    is_revision_right = published is not None and claimed == str(published.revision)
    signed = operations.signed_document(row, overwrites="" if is_revision_right else claimed)
    if not is_revision_right or state.documents[row.field] != signed.content:
        comparison.outdated.append(row.field)
        comparison.due.append(signed)


def _outdated_tokens(rows: Sequence[StoredDocument], state: PublishedState) -> list[QueueToken]:
    """Return the tokens that workers do not see yet."""
    queues = [row for row in rows if row.kind == DocumentKind.QUEUE]
    return [
        replace(token, overwrites=state.tokens.get(token.queue, ""))
        for token in operations.queue_tokens(queues, rows)
        if state.tokens.get(token.queue) != str(token.token)
    ]
