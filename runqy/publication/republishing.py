"""Compares what Redis publishes with what the database holds, and makes Redis agree again."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import structlog
from django.conf import settings

from runqy.audit.operations import record
from runqy.broker import publication
from runqy.broker.publication import PublishedDocument, QueueToken, Standing
from runqy.connection import get_broker
from runqy.publication import operations
from runqy.publication.documents import Document, DocumentRefused, Kind, signing_key, unseal
from runqy.publication.heads import Head, HeadProblem, is_bare_digest, verify_head
from runqy.publication.models import StoredDocument

log = structlog.get_logger()

_TAMPERED = (HeadProblem.REFUSED, HeadProblem.PUT_BACK, HeadProblem.INCOMPLETE)


@dataclass(slots=True, kw_only=True)
class Comparison:
    """How Redis and the database differ; all lists hold fields of documents."""

    outdated: list[str] = field(default_factory=list)
    """Missing in Redis, older there, or not as the server signed it."""
    refused: list[str] = field(default_factory=list)
    """Not signed by this server."""
    ahead: list[str] = field(default_factory=list)
    """Signed and newer than the database: it was restored from a backup, or is another instance's."""
    unknown: list[str] = field(default_factory=list)
    """In Redis only."""
    tokens: list[QueueToken] = field(default_factory=list)
    """What workers are to be told."""
    due: list[PublishedDocument] = field(default_factory=list)
    """The outdated ones as they are to be."""
    newest: int = 0
    """The highest revision that the server signed, as far as Redis knows."""
    head_problem: HeadProblem | None = None
    """Why the head in Redis is not that of the database; one that is ahead is left alone."""
    standing_head: bytes = b""

    @property
    def is_agreed(self) -> bool:
        """Return whether nothing is left to do or to report."""
        has_findings = self.outdated or self.refused or self.ahead or self.unknown or self.tokens
        return not (has_findings or self.head_problem)

    @property
    def is_tampered(self) -> bool:
        """Return whether Redis has what the server did not sign, or signed for an earlier state."""
        return bool(self.refused) or self.head_problem in _TAMPERED

    @property
    def is_ahead(self) -> bool:
        """Return whether Redis has configuration that the database does not have."""
        return bool(self.ahead or self.unknown) or self.head_problem is HeadProblem.AHEAD


def compare_configuration() -> Comparison:
    """Compare Redis with the database. Raises BrokerUnavailable.

    Redis is read first: what a saver does meanwhile makes the database newer, never Redis.
    """
    standing = get_broker().run(publication.read_all())
    rows = list(StoredDocument.objects.all())
    comparison = Comparison()
    verified = _verified(standing, comparison)
    comparison.newest = max((document.revision for document in verified.values()), default=0)
    for row in rows:
        _compare_document(row, standing, verified, comparison)
    _compare_head(operations.stored_head(rows), standing, comparison)
    comparison.unknown = sorted(standing.documents.keys() - {row.field for row in rows})
    comparison.tokens = _outdated_tokens(rows, standing)
    return comparison


def published_documents(kind: Kind) -> dict[str, Document | None]:
    """Return what Redis holds of a kind, by name; None where the server did not sign it. Raises BrokerUnavailable."""
    standing = get_broker().run(publication.read_all())
    verified = _verified(standing, Comparison())
    places = [place for place in standing.documents if place.startswith(f"{kind}:")]
    return {place.partition(":")[2]: verified.get(place) for place in sorted(places)}


def republish_configuration() -> Comparison:
    """Publish what Redis lacks, has older or has altered; report what is not ours to decide. Raises BrokerUnavailable.

    Safe beside savers and beside another process that does the same.
    """
    return _republish(compare_configuration())


def _republish(comparison: Comparison, *, replaces_head: bool = False) -> Comparison:
    """Publish what a comparison found to be due; `replaces_head`: also where the head is ahead."""
    is_head_due = comparison.head_problem not in (None, HeadProblem.AHEAD) or replaces_head
    if comparison.due or is_head_due:
        overwrites = comparison.standing_head if is_head_due else b""
        operations.publish_signed(comparison.due, head_overwrites=overwrites)
        if comparison.outdated or comparison.head_problem is not HeadProblem.MISSING:  # not on an empty Redis
            log.info("configuration_republished", documents=comparison.outdated)
    if comparison.head_problem in _TAMPERED:
        log.error("published_head_refused", reason=comparison.head_problem.value)
    if comparison.tokens:
        get_broker().run(publication.announce(comparison.tokens))
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


def replace_configuration() -> Comparison:
    """Make Redis say what the database says, even where Redis is newer: after the database was restored.

    Raises BrokerUnavailable.
    """
    comparison = compare_configuration()
    with operations.configuration_change(above=comparison.newest) as change:
        for row in StoredDocument.objects.all():
            if row.field in comparison.ahead:
                change.renew(row)
        for place in set(comparison.unknown).difference(comparison.refused):
            kind, _, name = place.partition(":")
            change.remove(Kind(kind), name)
        if change.touched:
            replaced = {"documents": (None, sorted(change.touched))}
            record(action="configuration.replaced", object_kind="configuration", object_name="redis", changes=replaced)
    if foreign := sorted(set(comparison.unknown).intersection(comparison.refused)):
        get_broker().run(publication.remove_documents(foreign))
    _republish(compare_configuration(), replaces_head=True)
    return comparison


def _verified(standing: Standing, comparison: Comparison) -> dict[str, Document]:
    """Return the documents in Redis that the server signed, and note the others."""
    key = signing_key(settings.SECRET_KEY)
    verified = {}
    for place, content in standing.documents.items():
        try:
            verified[place] = unseal(place, content, key)
        except DocumentRefused:
            comparison.refused.append(place)
    return verified


def _compare_head(stored: Head, standing: Standing, comparison: Comparison) -> None:
    """Note what is wrong with the head in Redis. The older documents behind one that was put back are due anyway."""
    if standing.head is None:
        comparison.head_problem = HeadProblem.MISSING
        return
    comparison.standing_head = standing.head
    try:
        published = verify_head(standing.head, signing_key(settings.SECRET_KEY))
    except DocumentRefused:
        is_bare = is_bare_digest(standing.head)
        comparison.head_problem = HeadProblem.UNSIGNED if is_bare else HeadProblem.REFUSED
        return
    comparison.newest = max(comparison.newest, published.revision)
    if published == stored:
        return
    if published.revision > stored.revision:
        comparison.head_problem = HeadProblem.AHEAD
    elif published.revision == stored.revision:
        comparison.head_problem = HeadProblem.INCOMPLETE
    else:
        comparison.head_problem = HeadProblem.BEHIND if comparison.outdated else HeadProblem.PUT_BACK


def _compare_document(
    row: StoredDocument, standing: Standing, verified: dict[str, Document], comparison: Comparison
) -> None:
    """Note whether a row's document is to be published, or stands in Redis with a newer revision."""
    claimed = standing.revisions.get(row.field, "")
    published = verified.get(row.field)
    if published is not None and published.revision > row.revision:
        comparison.ahead.append(row.field)
        return
    is_claimed_rightly = published is not None and claimed == str(published.revision)
    signed = operations.signed_document(row, overwrites="" if is_claimed_rightly else claimed)
    if not is_claimed_rightly or standing.documents[row.field] != signed.content:
        comparison.outdated.append(row.field)
        comparison.due.append(signed)


def _outdated_tokens(rows: Sequence[StoredDocument], standing: Standing) -> list[QueueToken]:
    """Return the tokens that workers do not see yet."""
    queues = [row for row in rows if row.kind == Kind.QUEUE]
    return [
        replace(token, overwrites=standing.tokens.get(token.queue, ""))
        for token in operations.queue_tokens(queues, rows)
        if standing.tokens.get(token.queue) != str(token.token)
    ]
