"""Removes queues with their tasks, once nobody can put tasks on them any more."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import structlog
from django.db import transaction
from django.utils import timezone

from queues.definitions import QueueSpec, SubQueue
from queues.models import Queue, QueueRemoval
from queues.names import AllowedQueues
from queues.operations import change_queue, delete_definition, spec_version
from queues.queries import get_fresh_catalog
from queues.removing import Claim, find_removal, note_removal, refuse_tasks
from runqy.audit.actors import Actor, ActorKind, actor_context
from runqy.audit.operations import record
from runqy.broker.broker import Broker
from runqy.broker.counting import QueueCounts, count_tasks
from runqy.broker.removal import remove_redis_queue
from runqy.broker.states import TaskState
from runqy.errors import QueueNotEmpty, QueueNotFound, RunqyError
from runqy.publication.documents import Kind, field
from runqy.publication.operations import configuration_change, publish
from runqy.publication.snapshot import MAX_AGE_S

__all__ = ["RemovedQueue", "finish_removals", "get_tasks_at_stake", "remove_queue", "remove_queues"]

log = structlog.get_logger()
T = TypeVar("T")

SETTLE_S = MAX_AGE_S + 0.2
"""After this long no process accepts tasks for a queue that was closed."""


Check = Callable[[str], None]
"""Takes the version of what is to be removed, and raises if that is not meant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovedQueue:
    """What is gone."""

    name: str
    redis_queues: tuple[str, ...]
    tasks: dict[str, int]
    """How many by state."""
    keys: int
    """How many other keys in Redis."""


def remove_queue(
    broker: Broker,
    *,
    name: str,
    force: bool = False,
    allowed_queues: AllowedQueues = None,
    check: Check = lambda _: None,
) -> RemovedQueue:
    """Remove a queue, or the sub-queue that a name means, and all that Redis has of it.

    First its intake is closed, and a second later, when every process knows, what is left is looked at again: so a
    task that was accepted is never lost unless `force` says so. What is cut off after that, the same call goes on with,
    or maintenance does. In a transaction others could not see the steps, so that is refused.
    Raises QueueNotFound, QueueNotEmpty, QueueBeingRemoved, BrokerUnavailable.
    """
    started = _start(broker, name, force=force, allowed_queues=allowed_queues, check=check)
    _settle([started])
    return _finish(broker, started)


def remove_queues(broker: Broker, *, names: Iterable[str], force: bool = False) -> dict[str, RemovedQueue | RunqyError]:
    """Remove several queues as `remove_queue` does one, in hardly more time; return what became of each."""
    started = {name: _outcome(partial(_start, broker, name, force=force)) for name in names}
    _settle([one for one in started.values() if isinstance(one, _Started)])
    return {
        name: _outcome(partial(_finish, broker, one)) if isinstance(one, _Started) else one
        for name, one in started.items()
    }


def finish_removals(broker: Broker) -> None:
    """Go on with removals that no process is at, in the name of whoever asked for them. Raises BrokerUnavailable."""
    rows = QueueRemoval.objects.filter(claimed_until__lte=timezone.now())
    started = [one for one in (_outcome(partial(_Started.of, row)) for row in rows) if isinstance(one, _Started)]
    _settle(started)
    for one in started:
        with actor_context(_actor(one.row.actor)):
            outcome = _outcome(partial(_finish, broker, one))
        if isinstance(outcome, RemovedQueue):
            log.info("removal_finished", queue=outcome.name, keys=outcome.keys)


def get_tasks_at_stake(broker: Broker, name: str, *, allowed_queues: AllowedQueues = None) -> list[QueueCounts]:
    """Return for each Redis queue that goes with a name how many tasks it holds in each state.

    Raises QueueNotFound, BrokerUnavailable.
    """
    return _count(broker, _find(name, allowed_queues).redis_queues)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    """A queue, or one of its sub-queues while it has others."""

    queue: str
    redis_queues: tuple[str, ...]
    sub_queue: str = ""

    def closed(self, spec: QueueSpec) -> QueueSpec:
        """Return the queue as it takes no tasks for the target."""
        if not self.sub_queue:
            return replace(spec, is_enabled=False)
        return _with_subs(spec, [sub for sub in spec.sub_queues if sub.name != self.sub_queue])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Started:
    """A removal that this process is at."""

    name: str
    """As it was asked for."""
    row: QueueRemoval
    claim: Claim

    @classmethod
    def of(cls, row: QueueRemoval, name: str = "") -> "_Started":
        """Take a removal over. Raises QueueBeingRemoved."""
        return cls(name=name or str(row), row=row, claim=Claim(row))


def _start(
    broker: Broker, name: str, *, force: bool, allowed_queues: AllowedQueues = None, check: Check = lambda _: None
) -> _Started:
    """Close the intake and write down what is to be removed, in one transaction; or take up a removal that was left."""
    if row := find_removal(name, allowed_queues=allowed_queues):
        started = _Started.of(row, name)
        row.is_forced = row.is_forced or force
        row.save(update_fields=["is_forced"])
        return started
    target = _find(name, allowed_queues)
    if not force:
        refuse_tasks(_count(broker, target.redis_queues))
    with transaction.atomic(durable=True), configuration_change():
        queue = Queue.objects.filter(name=target.queue).first()
        if queue is None:
            raise QueueNotFound(f"No queue {target.queue[:128]!r}.")
        before = queue.as_spec()
        check(spec_version(before))
        change_queue(spec=target.closed(before))
        row = note_removal(
            target.queue, target.sub_queue, redis_queues=target.redis_queues, is_whole=not target.sub_queue
        )
        row.before, row.is_forced = before.encode().decode(), force
        row.save(update_fields=["before", "is_forced"])
        return _Started.of(row, name)


def _settle(removals: Sequence[_Started]) -> None:
    """Wait until no process takes tasks for queues that were closed. Raises BrokerUnavailable."""
    closed = {one.row.queue for one in removals if not one.row.is_decided}
    if not closed:
        return
    with ExitStack() as claims:
        for one in removals:
            claims.enter_context(one.claim)
        publish(frozenset(field(Kind.QUEUE, queue) for queue in closed))
    time.sleep(SETTLE_S)


def _finish(broker: Broker, one: _Started) -> RemovedQueue:
    """Decide whether a closed queue goes, and empty it in Redis. Raises QueueNotEmpty and what Redis raises."""
    row, claim = one.row, one.claim
    with claim:
        counts = _count(broker, row.redis_queues)
        if not row.is_decided:
            _decide(one, counts)
        removals = [remove_redis_queue(broker, queue, before_step=claim.renew) for queue in row.redis_queues]
    row.delete()
    keys = sum(removal.keys for removal in removals)
    return RemovedQueue(name=one.name, redis_queues=tuple(row.redis_queues), tasks=_tasks(counts), keys=keys)


def _decide(one: _Started, counts: Sequence[QueueCounts]) -> None:
    """Delete the definition and record what goes with it, or open the queue again and raise QueueNotEmpty."""
    if not one.row.is_forced:
        try:
            refuse_tasks(counts)
        except QueueNotEmpty:
            _reopen(one.row)
            raise
    with configuration_change() as change:
        if not QueueRemoval.objects.filter(pk=one.row.pk).update(is_decided=True):
            raise QueueNotEmpty(f"{one.row} was saved again meanwhile, and is kept.")
        if one.row.is_whole:
            delete_definition(change, one.row.queue)
            QueueRemoval.objects.filter(queue=one.row.queue, is_whole=False).delete()  # this one has theirs too
        if gone := {f"tasks.{state}": (count, 0) for state, count in _tasks(counts).items() if count}:
            record(action="queue.emptied", object_kind="queue", object_name=one.name, changes=gone)


def _reopen(row: QueueRemoval) -> None:
    """Let a queue take tasks again that came in last, with what else became of it meanwhile."""
    if not row.before:
        return
    before = QueueSpec.decode(row.before.encode())
    with configuration_change():
        row.delete()
        queue = Queue.objects.get(name=row.queue)
        change_queue(spec=_opened(queue.as_spec(), before))


def _opened(spec: QueueSpec, before: QueueSpec) -> QueueSpec:
    """Return a queue as it takes tasks again."""
    missing = [sub for sub in before.sub_queues if sub.name not in {other.name for other in spec.sub_queues}]
    return replace(_with_subs(spec, [*spec.sub_queues, *missing]), is_enabled=before.is_enabled)


def _with_subs(spec: QueueSpec, subs: Sequence[SubQueue]) -> QueueSpec:
    """Return a queue with other sub-queues."""
    priority = max((sub.priority for sub in subs), default=spec.priority)
    return replace(spec, sub_queues=tuple(subs), priority=priority)


def _find(name: str, allowed_queues: AllowedQueues) -> _Target:
    """Return what a name means: a queue by its own name, else what it is for tasks."""
    catalog = get_fresh_catalog(max_age_s=0)
    queue = catalog.get_queue(name, allowed_queues=allowed_queues)
    redis_queues = tuple(redis_queue for redis_queue, _ in queue.redis_queues(catalog.separator))
    if name == queue.name or len(redis_queues) == 1:
        return _Target(queue=queue.name, redis_queues=redis_queues)
    resolved = catalog.resolve(name, allowed_queues=allowed_queues).redis_queue
    sub_queue = queue.sub_queues[redis_queues.index(resolved)].name
    return _Target(queue=queue.name, redis_queues=(resolved,), sub_queue=sub_queue)


def _count(broker: Broker, redis_queues: Sequence[str]) -> list[QueueCounts]:
    """Count the tasks of Redis queues."""
    return broker.run(count_tasks(redis_queues, now_ns=broker.now_ns()))


def _tasks(counts: Sequence[QueueCounts]) -> dict[str, int]:
    """Return how many tasks there are by state."""
    return {state.value: sum(getattr(queue, state.value) for queue in counts) for state in TaskState}


def _actor(stored: Mapping[str, Any]) -> Actor:
    """Return whoever asked for a removal."""
    return Actor(**{**stored, "kind": ActorKind(stored["kind"])})


def _outcome(do: Callable[[], T]) -> T | RunqyError:
    """Return what came of something, or the error that it raised."""
    try:
        return do()
    except RunqyError as error:
        return error
