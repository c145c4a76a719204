"""Read batches and their members."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from django.db.models import BooleanField, Func, JSONField, Q, Sum, Value

from batches.models import OWNER_MAX_LENGTH, Batch, CallbackState, Member, MemberState, WaitingMembers
from batches.progress import Waiting
from queues.catalog import AllowedQueues
from queues.queries import HIDDEN, get_fresh_catalog, hides_payloads
from runqy.audit.actors import Actor, current_actor
from runqy.errors import BatchNotFound

_PROBLEMS_MAX = 20
SCANNED_MAX = 10_000
"""Batches that one page looks at for a key that is limited to queues."""


class Position(NamedTuple):
    """The last batch of a page."""

    created_at: datetime
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberPage:
    """Members in the order in which they were added."""

    members: list[Member]
    end: int | None
    """The id of the last member; None on the last page."""


def get_batch(batch_id: str, *, allowed_queues: AllowedQueues = None) -> Batch:
    """Raise BatchNotFound, also for a batch of queues that are not allowed."""
    batch = Batch.objects.defer("callback_request").filter(pk=batch_id).first()
    if batch is None or not is_allowed(batch, allowed_queues, current_actor()):
        raise BatchNotFound(f"No batch {batch_id[:64]!r}.")
    return batch


def is_allowed(batch: Batch, allowed_queues: AllowedQueues, actor: Actor) -> bool:
    if allowed_queues is None or batch.queues:
        return allowed_queues is None or allowed_queues.issuperset(batch.queues)
    # Nothing was added yet that says which queues it is about.
    creator = Actor.from_json(batch.created_by)
    return (creator.kind, creator.id) == (actor.kind, actor.id)


def find_owner(actor: Actor) -> str:
    """Return the owner of what an actor creates. Keys of the environment have no id."""
    return f"{actor.kind}:{actor.id or actor.name}"[:OWNER_MAX_LENGTH]


def sum_waiting_members(condition: Q) -> Waiting:
    """Return what waits together in the database, of the rows of `WaitingMembers` that meet a condition."""
    found = WaitingMembers.objects.filter(condition).aggregate(count=Sum("count"), size_bytes=Sum("size_bytes"))
    return Waiting(found["count"] or 0, found["size_bytes"] or 0)


def list_incomplete_batches() -> list[Batch]:
    """Return the newest batches of which it is unknown whether something was enqueued, or without their callback."""
    return list(Batch.objects.filter(has_problem=True).order_by("-created_at")[:_PROBLEMS_MAX])


def list_abandoned_batches() -> list[Batch]:
    """Return the newest batches that the server closed."""
    return list(Batch.objects.filter(is_abandoned=True).order_by("-created_at")[:_PROBLEMS_MAX])


def describe_abandoned(batch: Batch) -> str:
    return f"Batch {batch} by {batch.created_by['name']} was closed by the server: nothing was added for seven days."


def describe_problem(batch: Batch) -> str:
    unknown = batch.counts.get(MemberState.UNKNOWN, 0)
    if batch.callback_state == CallbackState.REFUSED:
        return f"The callback of batch {batch} was not enqueued: {batch.callback_reason}"
    subject = f"{unknown:,} of its members were" if unknown else "its callback was"
    reason = f"{subject} interrupted for 23 hours, and not enqueued again"
    return f"Nobody can tell whether batch {batch} is complete: {reason}."


def list_members(
    batch: Batch, *, limit: int, may_view_payloads: bool, state: str = "", after: int | None = None
) -> MemberPage:
    """Return a page of members; without `may_view_payloads`, no reasons of queues that hide payloads.

    Raise ConfigurationUnavailable.
    """
    members = batch.members.filter(pk__gt=after or 0).defer("request")
    found = list((members.filter(state=state) if state else members).order_by("pk")[: limit + 1])
    catalog = None if may_view_payloads else get_fresh_catalog()
    for member in found:  # not when they are stored: the setting can change
        if member.reason and not may_view_payloads and hides_payloads(member.redis_queue, catalog):
            member.reason = HIDDEN
    return MemberPage(members=found[:limit], end=found[limit - 1].pk if len(found) > limit else None)


def list_batches(
    limit: int, after: Position | None, allowed_queues: AllowedQueues
) -> tuple[list[Batch], Position | None]:
    """Return a page of batches, the newest first, and its end.

    For a key that is limited to queues a page may be short: of SCANNED_MAX batches those that it may see.
    """
    older = Batch.objects.defer("callback_request").order_by("-created_at", "-id")
    if after is not None:
        older = older.filter(Q(created_at__lt=after.created_at) | Q(created_at=after.created_at, id__lt=after.id))
    if allowed_queues is None:
        found = list(older[: limit + 1])
        return found[:limit], _position(found[limit - 1]) if len(found) > limit else None
    last = older.only("created_at", "id")[SCANNED_MAX - 1 : SCANNED_MAX].first()
    if last is not None:
        older = older.filter(Q(created_at__gt=last.created_at) | Q(created_at=last.created_at, id__gte=last.pk))
    found = list(older.filter(_are_visible(allowed_queues))[: limit + 1])
    if len(found) > limit:
        return found[:limit], _position(found[limit - 1])
    return found, _position(last) if last is not None else None


def _position(batch: Batch) -> Position:
    return Position(batch.created_at, batch.pk)


def _are_visible(allowed_queues: frozenset[str]) -> Q:
    """Return the condition of `is_allowed` for the current actor."""
    actor = current_actor()
    is_own = Q(queues=[], created_by__kind=actor.kind.value, created_by__id=actor.id)
    return is_own | (~Q(queues=[]) & Q(_AreWithin("queues", Value(sorted(allowed_queues), JSONField()))))


class _AreWithin(Func):
    """Whether all names in a list are in another one."""

    template = "(%(expressions)s)"
    arg_joiner = " <@ "
    output_field = BooleanField()

    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> Any:
        names = "SELECT value FROM json_each(%(expressions)s)"
        return self.as_sql(
            compiler,
            connection,
            template=f"(NOT EXISTS ({names})))",
            arg_joiner=") WHERE value NOT IN (SELECT value FROM json_each(",
            **context,
        )
