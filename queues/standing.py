"""Tells how queues stand: their tasks, their workers, whether they are published and what hinders workers."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from django.conf import settings

from queues.definitions import QueueSpec
from queues.queries import queue_vault_problems
from runqy.broker.broker import Broker
from runqy.broker.counting import QueueCounts, count_tasks
from runqy.broker.heartbeats import find_workers
from runqy.broker.worker_records import WorkerRecord
from runqy.errors import BrokerUnavailable
from runqy.publication.documents import Kind, field
from runqy.publication.republishing import Comparison

__all__ = ["QueueStanding", "look_at_queues"]


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStanding:
    """How one queue stands."""

    counts: tuple[QueueCounts, ...] | None
    """One for each of its Redis queues; None while Redis cannot be reached."""
    workers: tuple[WorkerRecord, ...] = ()
    """Those that serve it and were heard of lately."""
    is_published: bool | None
    """Whether Redis has it, with its vaults, as the database does; None while Redis cannot be reached."""
    vault_problems: tuple[str, ...] = ()
    """Why workers cannot register for it."""

    @property
    def waiting(self) -> int:
        """Return how many tasks wait, for a worker, for their time or for their next try."""
        return sum(each.pending + each.scheduled + each.retry + each.aggregating for each in self.counts or ())

    @property
    def running(self) -> int:
        """Return how many tasks run."""
        return sum(each.active for each in self.counts or ())

    @property
    def failed(self) -> int:
        """Return how many tasks were given up."""
        return sum(each.archived for each in self.counts or ())

    @property
    def completed(self) -> int:
        """Return how many completed tasks are kept."""
        return sum(each.completed for each in self.counts or ())

    @property
    def is_paused(self) -> bool:
        """Tell whether any part of it is paused."""
        return any(each.is_paused for each in self.counts or ())

    @property
    def is_wholly_paused(self) -> bool:
        """Tell whether all of it is paused."""
        return bool(self.counts) and all(each.is_paused for each in self.counts or ())


def look_at_queues(
    broker: Broker, specs: Sequence[QueueSpec], comparison: Comparison | None
) -> dict[str, QueueStanding]:
    """Return how queues stand, by their names, in as many round trips for one as for all of them."""
    parts = {spec.name: [name for name, _ in spec.redis_queues(settings.RUNQY_SUBQUEUE_SEPARATOR)] for spec in specs}
    problems = queue_vault_problems(parts)
    counts, workers = _traffic(broker, [name for names in parts.values() for name in names])
    return {
        spec.name: QueueStanding(
            counts=tuple(counts[name] for name in parts[spec.name]) if counts is not None else None,
            workers=_serving(workers, parts[spec.name]),
            is_published=_is_published(spec, comparison),
            vault_problems=tuple(problems[spec.name]),
        )
        for spec in specs
    }


def _traffic(
    broker: Broker, names: Sequence[str]
) -> tuple[dict[str, QueueCounts] | None, dict[str, list[WorkerRecord]]]:
    """Return counts and workers by Redis queue; no counts while Redis cannot be reached."""
    workers: dict[str, list[WorkerRecord]] = defaultdict(list)
    try:
        counts = broker.run(count_tasks(names, now_ns=broker.now_ns())) if names else []
        found = find_workers(broker) if names else []
    except BrokerUnavailable:
        return None, workers
    now_s = broker.now_s()
    for record in found:
        for name in record.redis_queues if not record.is_stale(now_s) else ():
            workers[name].append(record)
    return {count.queue: count for count in counts}, workers


def _serving(workers: dict[str, list[WorkerRecord]], names: Sequence[str]) -> tuple[WorkerRecord, ...]:
    """Return the workers that serve one of some Redis queues, each once, by id."""
    found = {record.worker_id: record for name in names for record in workers.get(name, ())}
    return tuple(found[worker_id] for worker_id in sorted(found))


def _is_published(spec: QueueSpec, comparison: Comparison | None) -> bool | None:
    """Tell whether Redis agrees with the database about a queue and its vaults."""
    if comparison is None:
        return None
    vaults = [field(Kind.VAULT, name) for name in spec.deployment.vaults_used]
    places = {field(Kind.QUEUE, spec.name), field(Kind.ROLLOUT, spec.name), *vaults}
    differing = {*comparison.outdated, *comparison.refused, *comparison.ahead}
    return places.isdisjoint(differing) and spec.name not in {token.queue for token in comparison.tokens}
