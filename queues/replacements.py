"""Let workers replace their processes, after a change of their environment, some at a time."""

from collections.abc import Sequence

import structlog

from queues.models import Queue
from queues.rollouts import by_load, connected_workers, step_size
from runqy.broker.broker import Broker
from runqy.broker.workers.records import Replacement, WorkerAction, WorkerRecord, read_requests, request_action
from runqy.maintenance.failed_rows import RowFailures

log = structlog.get_logger(__name__)
_failures = RowFailures("replacement of processes")


def continue_replacements(broker: Broker) -> bool:
    """Give the workers of all queues their turns. Return whether any waits, or has one. Raise BrokerUnavailable."""
    workers: dict[str, list[WorkerRecord]] = {}
    for record in connected_workers(broker):
        workers.setdefault(record.queue, []).append(record)
    names = [name for name, found in workers.items() if any(worker.replacement for worker in found)]
    if not names:
        return False
    _failures.begin_pass()
    for queue in _failures.exclude_paused(Queue.objects.filter(name__in=names)):
        with _failures.isolate(queue.pk, name=f"of {queue}", queue=queue.name):
            give_turns(broker, queue, workers[queue.name])
    return True


def give_turns(broker: Broker, queue: Queue, workers: Sequence[WorkerRecord]) -> None:
    """Ask those that wait to replace their processes, as many as may at once. `workers` are the connected ones.

    Nobody judges the new processes: where they do not start, the old ones go on, and the other workers keep theirs.
    """
    waiting = [worker for worker in workers if worker.replacement is Replacement.WAITING]
    if not waiting:
        return
    requests = broker.run_all([read_requests(worker.worker_id) for worker in waiting])
    # The id of a request is the revision that the worker waits with, so that each is made once.
    asked = [
        worker
        for worker, found in zip(waiting, requests, strict=True)
        if isinstance(found, dict) and found.get(WorkerAction.TAKE_TURN) == worker.revision
    ]
    busy = sum(worker.replacement is Replacement.RUNNING for worker in workers) + len(asked)
    free = (1 if queue.replace_first else step_size(queue, workers)) - busy
    for worker in by_load([worker for worker in waiting if worker not in asked])[: max(free, 0)]:
        broker.run(request_action(worker.worker_id, WorkerAction.TAKE_TURN, request_id=worker.revision))
        log.info("turn_given", queue=queue.name, worker_id=worker.worker_id)
