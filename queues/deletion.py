"""Deletion of queues and sub-queues with their tasks, once no process accepts tasks for them any more."""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import structlog
from django.db import transaction
from django.utils import timezone

from queues.catalog import AllowedQueues, aliases_by_redis_queue
from queues.definitions import QueueSpec, SubQueueSpec
from queues.models import Queue, QueueDeletion
from queues.operations import change_queue, delete_definition, spec_version
from queues.pending_deletions import DeletionLease, ensure_empty, find_deletion, record_deletion
from queues.queries import get_fresh_catalog
from queues.status import sum_tasks
from runqy.audit.actors import Actor, actor_context
from runqy.audit.operations import record
from runqy.broker.broker import Broker
from runqy.broker.queues.deletion import delete_redis_queue, remember_unread_ends
from runqy.broker.queues.stats import QueueCounts, count_tasks
from runqy.configuration.operations import configuration_change
from runqy.configuration.publishing import publish
from runqy.configuration.snapshot import PROPAGATION_S
from runqy.core.preconditions import Precondition, accept_any
from runqy.errors import QueueNotEmpty, QueueNotFound, RunqyError
from runqy.maintenance.failed_rows import RowFailures

log = structlog.get_logger()
T = TypeVar("T")
C = TypeVar("C", bound="Callable[[str], None]")

MAX_TASKS_AT_ONCE = 10_000
"""A queue with more tasks is emptied by maintenance, since Redis takes a second to delete some thousand of them."""


_failures = RowFailures("deletion")
_cleanups: list[Callable[[str], None]] = []


def register_cleanup(clean: C) -> C:
    """Register a function that deletes what an app above keeps of a queue, by its name. A decorator.

    It is called in the transaction that deletes the definition, before that, as the actor of the deletion.
    """
    _cleanups.append(clean)
    return clean


@dataclass(frozen=True, slots=True, kw_only=True)
class DeletedQueue:
    """A queue or sub-queue that was deleted, or whose tasks are being deleted."""

    name: str
    redis_queues: tuple[str, ...]
    tasks: dict[str, int]
    """The number of deleted tasks by state, or of those that are left."""
    keys: int = 0
    """The number of other keys deleted from Redis."""
    is_finished: bool = True
    """Everything is deleted. If False, only the definition is, and maintenance deletes the rest."""


def get_deletion_progress(broker: Broker, *, name: str, allowed_queues: AllowedQueues = None) -> DeletedQueue:
    """Return what is left of a queue that is being deleted. Raise QueueNotFound, BrokerUnavailable."""
    row = find_deletion(name, allowed_queues=allowed_queues)
    if row is None:
        raise QueueNotFound(f"No queue {name[:128]!r} is being deleted.")
    tasks = sum_tasks(_count(broker, row.redis_queues))
    return DeletedQueue(name=str(row), redis_queues=tuple(row.redis_queues), tasks=tasks, is_finished=False)


def delete_queue(  # noqa: PLR0913 (how to delete, and under which conditions)
    broker: Broker,
    *,
    name: str,
    force: bool = False,
    in_background: bool = False,
    allowed_queues: AllowedQueues = None,
    precondition: Precondition = accept_any,
) -> DeletedQueue:
    """Delete a queue, or the sub-queue that a name means, with its tasks and all its other keys in Redis.

    With `in_background`, or more than MAX_TASKS_AT_ONCE tasks, maintenance deletes the tasks later.

    The queue is closed first. Its tasks are counted again once every process knows that it is closed, so that no
    accepted task is lost unless `force` is set. The next call or maintenance continues an interrupted deletion. This
    cannot run inside a transaction, because other processes must see each step.

    Raise QueueNotFound, QueueNotEmpty, QueueBeingDeleted, BrokerUnavailable.
    """
    started = _start(broker, name, force=force, allowed_queues=allowed_queues, precondition=precondition)
    _wait_until_closed([started])
    return _finish(broker, started, max_tasks=0 if in_background else MAX_TASKS_AT_ONCE)


def delete_queues(broker: Broker, *, names: Iterable[str], force: bool = False) -> dict[str, DeletedQueue | RunqyError]:
    """Delete several queues as `delete_queue` does, waiting once for all. Return the result or error of each."""
    started = {name: _result_or_error(partial(_start, broker, name, force=force)) for name in names}
    _wait_until_closed([each for each in started.values() if isinstance(each, _StartedDeletion)])
    return {
        name: _result_or_error(partial(_finish, broker, each, max_tasks=MAX_TASKS_AT_ONCE))
        if isinstance(each, _StartedDeletion)
        else each
        for name, each in started.items()
    }


def finish_deletions(broker: Broker) -> None:
    """Continue deletions without a lease, as the actors who requested them. Raise BrokerUnavailable."""
    _failures.begin_pass()
    rows = list(QueueDeletion.objects.filter(leased_until__lte=timezone.now()).values_list("pk", "queue"))
    started: list[_StartedDeletion] = []
    for pk, queue in rows:
        if _failures.is_paused(pk):
            continue
        with _failures.isolate(pk, name=f"of {queue}", queue=queue):
            for row in QueueDeletion.objects.filter(pk=pk):
                resumed = _result_or_error(partial(_StartedDeletion.resume, row))
                started += [resumed] if isinstance(resumed, _StartedDeletion) else []
    _wait_until_closed(started)
    for each in started:
        with _failures.isolate(each.row.pk, name=f"of {each.row.queue}", queue=each.row.queue):
            with actor_context(Actor.from_json(each.row.actor)):
                result = _result_or_error(partial(_finish, broker, each))
            if isinstance(result, DeletedQueue):
                log.info("deletion_finished", queue=result.name, keys=result.keys)


@dataclass(frozen=True, slots=True, kw_only=True)
class _DeletionTarget:
    """A whole queue, or one sub-queue of several."""

    queue: str
    redis_queues: tuple[str, ...]
    sub_queue: str = ""

    def close(self, spec: QueueSpec) -> QueueSpec:
        if not self.sub_queue:
            return replace(spec, is_enabled=False)
        return _with_sub_queues(spec, [sub for sub in spec.sub_queues if sub.name != self.sub_queue])


@dataclass(frozen=True, slots=True, kw_only=True)
class _StartedDeletion:
    """A deletion that this process has leased."""

    name: str
    """As requested."""
    row: QueueDeletion
    lease: DeletionLease

    @classmethod
    def resume(cls, row: QueueDeletion, name: str = "") -> "_StartedDeletion":
        """Lease a pending deletion. Raise QueueBeingDeleted."""
        return cls(name=name or str(row), row=row, lease=DeletionLease(row))


def _start(
    broker: Broker,
    name: str,
    *,
    force: bool,
    allowed_queues: AllowedQueues = None,
    precondition: Precondition = accept_any,
) -> _StartedDeletion:
    """Close a queue and record its deletion in one transaction, or resume a pending deletion."""
    if row := find_deletion(name, allowed_queues=allowed_queues):
        started = _StartedDeletion.resume(row, name)
        row.is_forced = row.is_forced or force
        row.save(update_fields=["is_forced"])
        return started
    target = _resolve(name, allowed_queues)
    # A queue with tasks is refused before it is closed for everybody; `_decide` counts again.
    if not force:
        ensure_empty(_count(broker, target.redis_queues))
    # Durable: an outer transaction would hide the closed queue from the other processes.
    with transaction.atomic(durable=True), configuration_change():
        queue = Queue.objects.filter(name=target.queue).first()
        if queue is None:
            raise QueueNotFound(f"No queue {target.queue[:128]!r}.")
        before = queue.as_spec()
        precondition(spec_version(before))
        change_queue(spec=target.close(before))
        row = record_deletion(
            target.queue, target.sub_queue, redis_queues=target.redis_queues, is_whole=not target.sub_queue
        )
        row.before, row.is_forced = before.encode().decode(), force
        row.save(update_fields=["before", "is_forced"])
        return _StartedDeletion.resume(row, name)


def _wait_until_closed(deletions: Sequence[_StartedDeletion]) -> None:
    """Publish the closed queues, and wait until no process accepts tasks for them. Raise BrokerUnavailable."""
    if all(each.row.is_decided for each in deletions):
        return  # they were decided after an earlier wait
    with ExitStack() as leases:
        for each in deletions:
            leases.enter_context(each.lease)
        publish()
    time.sleep(PROPAGATION_S)  # by then every process that reaches the database or Redis rejects new tasks


def _finish(broker: Broker, started: _StartedDeletion, *, max_tasks: int | None = None) -> DeletedQueue:
    """Delete a closed queue, or reopen it and raise QueueNotEmpty. Raise BrokerUnavailable, QueueBeingDeleted.

    With more than `max_tasks` tasks maintenance empties Redis. The result has the number of tasks in either case.
    """
    row, lease = started.row, started.lease
    with lease:
        counts = _count(broker, row.redis_queues)
        for queue in row.redis_queues:  # before the definition is deleted, which alone names the queue
            broker.run(remember_unread_ends(queue, row.queue))
        if not row.is_decided:
            _decide(started, counts)
        result = DeletedQueue(name=started.name, redis_queues=tuple(row.redis_queues), tasks=sum_tasks(counts), keys=0)
        if max_tasks is not None and sum(result.tasks.values()) > max_tasks:
            lease.release()
            return replace(result, is_finished=False)
        deleted = [
            delete_redis_queue(broker, queue, parent=row.queue, before_step=lease.extend) for queue in row.redis_queues
        ]
    row.delete()
    return replace(result, keys=sum(each.keys for each in deleted))


def _decide(started: _StartedDeletion, counts: Sequence[QueueCounts]) -> None:
    """Delete the definition and record the deletion, or reopen the queue and raise QueueNotEmpty."""
    row = started.row
    if not row.is_forced:
        try:
            ensure_empty(counts)
        except QueueNotEmpty:
            _reopen(row)
            raise
    with configuration_change() as change:
        # A change that saves the queue again deletes the row, and is refused once the row is decided.
        if not QueueDeletion.objects.filter(pk=row.pk).update(is_decided=True):
            raise QueueNotEmpty(f"{row} was saved again during its deletion, and is kept.")
        if row.is_whole:
            for clean in _cleanups:
                clean(row.queue)
            delete_definition(change, row.queue)
            QueueDeletion.objects.filter(queue=row.queue, is_whole=False).delete()  # this row includes theirs
        tasks = {state: count for state, count in sum_tasks(counts).items() if count}
        if tasks:
            changes = {f"tasks.{state}": (count, 0) for state, count in tasks.items()}
            record(action="queue.emptied", object_kind="queue", object_name=started.name, changes=changes)


def _reopen(row: QueueDeletion) -> None:
    if not row.before:
        return  # a change of the definition dropped it: the deletion waits until its tasks have ended
    before = QueueSpec.decode(row.before.encode())
    with configuration_change():
        row.delete()
        # Not `before` itself, which lacks what was changed in the meantime.
        spec = Queue.objects.get(name=row.queue).as_spec()
        names = {sub.name for sub in spec.sub_queues}
        missing = [sub for sub in before.sub_queues if sub.name not in names]
        reopened = _with_sub_queues(spec, [*spec.sub_queues, *missing])
        change_queue(spec=replace(reopened, is_enabled=before.is_enabled))


def _with_sub_queues(spec: QueueSpec, subs: Sequence[SubQueueSpec]) -> QueueSpec:
    priority = max((sub.priority for sub in subs), default=spec.priority)
    return replace(spec, sub_queues=tuple(subs), priority=priority)


def _resolve(name: str, allowed_queues: AllowedQueues) -> _DeletionTarget:
    catalog = get_fresh_catalog(max_age_s=0)
    queue = catalog.get_queue(name, allowed_queues=allowed_queues)
    redis_queues = tuple(redis_queue for redis_queue, _ in catalog.redis_queues_of(queue))
    if name == queue.name or len(queue.sub_queues) < 2:
        return _DeletionTarget(queue=queue.name, redis_queues=redis_queues)
    sub, names = next(
        (sub, names)
        for sub, names in zip(queue.sub_queues, aliases_by_redis_queue(queue), strict=True)
        if name in names
    )
    return _DeletionTarget(
        queue=queue.name, redis_queues=tuple(each for each in redis_queues if each in names), sub_queue=sub.name
    )


def _count(broker: Broker, redis_queues: Sequence[str]) -> list[QueueCounts]:
    return broker.run(count_tasks(redis_queues, now_ns=broker.now_ns()))


def _result_or_error(call: Callable[[], T]) -> T | RunqyError:
    try:
        return call()
    except RunqyError as error:
        return error
