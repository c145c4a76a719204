"""Removes queues with their tasks, once nobody can put tasks on them any more."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from django.db import transaction

from queues.definitions import QueueSpec, SubQueue
from queues.models import Queue, Source
from queues.operations import delete_queue, save_queue, spec_version
from queues.queries import get_catalog
from runqy import request_threads
from runqy.audit.operations import record
from runqy.broker.broker import Broker
from runqy.broker.counting import count_tasks
from runqy.broker.removal import Removal, remove_redis_queue
from runqy.errors import QueueNotEmpty, QueueNotFound
from runqy.publication.operations import configuration_change
from runqy.publication.snapshot import MAX_AGE_S

__all__ = ["RemovedQueue", "remove_queue"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovedQueue:
    """What is gone."""

    name: str
    redis_queues: tuple[str, ...]
    tasks: dict[str, int]
    """How many by state."""
    keys: int
    """How many other keys in Redis."""


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


def remove_queue(
    broker: Broker,
    *,
    name: str,
    force: bool = False,
    among: frozenset[str] | None = None,
    check: Callable[[str], None] = lambda _: None,
) -> RemovedQueue:
    """Remove a queue, or the sub-queue that a name means, and all that Redis has of it.

    First its intake is closed, and a second later, when every process knows, what is left is looked at again: so a
    task that was accepted is never lost unless `force` says so. `check` gets the version of what is to go.
    Raises QueueNotFound, QueueNotEmpty, BrokerUnavailable; after a failure the same call goes on.
    """
    target = _find(name, among)
    _refuse_tasks(broker, target, force)
    before = _save(target.queue, target.closed, check)
    if before.is_enabled:
        with request_threads.waiting():
            time.sleep(SETTLE_S)
    try:
        _refuse_tasks(broker, target, force)
    except QueueNotEmpty:
        _save(target.queue, lambda spec: _opened(spec, before))
        raise
    removals = [remove_redis_queue(broker, queue) for queue in target.redis_queues]
    return _forget(target, name, removals)


SETTLE_S = MAX_AGE_S + 0.2
"""After this long no process accepts tasks for a queue that was closed."""


def _find(name: str, among: frozenset[str] | None) -> _Target:
    """Return what a name means: a queue by its own name, else what it is for tasks."""
    catalog = get_catalog(max_age_s=0)
    queue = catalog.get_queue(name, among=among)
    redis_queues = tuple(redis_queue for redis_queue, _ in queue.redis_queues(catalog.separator))
    if name == queue.name or len(redis_queues) == 1:
        return _Target(queue=queue.name, redis_queues=redis_queues)
    resolved = catalog.resolve(name, among=among).redis_queue
    sub_queue = queue.sub_queues[redis_queues.index(resolved)].name
    return _Target(queue=queue.name, redis_queues=(resolved,), sub_queue=sub_queue)


def _refuse_tasks(broker: Broker, target: _Target, force: bool) -> None:
    """Raise QueueNotEmpty when tasks are not over, unless that does not matter."""
    if force:
        return
    for counts in broker.run(count_tasks(target.redis_queues, now_ns=broker.now_ns())):
        waiting = counts.pending + counts.scheduled + counts.retry + counts.aggregating
        if waiting or counts.active:
            raise QueueNotEmpty(
                f"In {counts.queue} {waiting} tasks wait and {counts.active} run; force=true removes them too."
            )


def _save(
    name: str, change: Callable[[QueueSpec], QueueSpec], check: Callable[[str], None] = lambda _: None
) -> QueueSpec:
    """Change a queue as it stands now; return what it was."""
    with configuration_change():
        row = Queue.objects.filter(name=name).first()
        if row is None:
            raise QueueNotFound(f"No queue {name[:128]!r}.")
        before = row.as_spec()
        check(spec_version(before))
        save_queue(spec=change(before), source=Source.API)
    return before


def _opened(spec: QueueSpec, before: QueueSpec) -> QueueSpec:
    """Return a queue as it takes tasks again, with what else became of it meanwhile."""
    missing = [sub for sub in before.sub_queues if sub.name not in {other.name for other in spec.sub_queues}]
    return replace(_with_subs(spec, [*spec.sub_queues, *missing]), is_enabled=before.is_enabled)


def _with_subs(spec: QueueSpec, subs: Sequence[SubQueue]) -> QueueSpec:
    """Return a queue with other sub-queues."""
    priority = max((sub.priority for sub in subs), default=spec.priority)
    return replace(spec, sub_queues=tuple(subs), priority=priority)


def _forget(target: _Target, name: str, removals: list[Removal]) -> RemovedQueue:
    """Delete the definition, and say and record what was removed."""
    tasks: Counter[str] = Counter()
    for removal in removals:
        tasks.update({state.value: count for state, count in removal.tasks.items()})
    with transaction.atomic():
        if not target.sub_queue:
            delete_queue(name=target.queue)
        removed = {f"tasks.{state}": (count, 0) for state, count in tasks.items() if count}
        record(action="queue.emptied", object_kind="queue", object_name=name, changes=removed)
    keys = sum(removal.keys for removal in removals)
    return RemovedQueue(name=name, redis_queues=target.redis_queues, tasks=dict(tasks), keys=keys)
