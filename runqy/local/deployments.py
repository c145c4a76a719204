"""Watches how far the worker of a stack is with deploying its queues."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from runqy import clock
from runqy.broker.broker import Broker
from runqy.broker.connection import RedisTarget
from runqy.broker.heartbeats import find_workers
from runqy.broker.worker_records import WorkerRecord, WorkerState
from runqy.errors import BrokerUnavailable

_REGISTERED_WITHIN_S = 30.0
"""A queue that the worker has not registered for by then is not waited for: the server refuses, and says why."""
_REASON_CHARS = 160
_SETTLED = (WorkerState.READY, WorkerState.START_FAILED)


class Deployments:
    """What the worker reports about its queues."""

    def __init__(self, target: RedisTarget, queues: Sequence[str], tell: Callable[[str], None]) -> None:
        """Take where Redis is, the queues to watch, and what to tell people with."""
        self._broker = Broker.connect(target)
        self._started = clock.monotonic_s()
        self._since_s = clock.now_ns() // 1_000_000_000
        self._queues = frozenset(queues)
        self._tell = tell
        self._states: dict[str, WorkerState] = {}
        self.records: dict[str, WorkerRecord] = {}
        """By queue; only of workers that started since: one that was killed is on record for a minute."""

    def are_settled(self) -> bool:
        """Look again, tell of changes, and return whether there is nothing more to wait for."""
        self._look()
        for queue, record in sorted(self.records.items()):
            if self._states.get(queue) is not record.state:
                self._states[queue] = record.state
                self._tell(f"  {queue}: {describe_state(record)}")
        may_be_missing = clock.monotonic_s() > self._started + _REGISTERED_WITHIN_S
        return all(
            self._states[queue] in _SETTLED if queue in self._states else may_be_missing for queue in self._queues
        )

    def _look(self) -> None:
        """Read the workers' records; while Redis is away the last ones stay."""
        try:
            found = find_workers(self._broker)
        except BrokerUnavailable:
            return
        ours = [one for one in found if one.queue in self._queues and one.started_at_s >= self._since_s]
        self.records = {one.queue: one for one in sorted(ours, key=lambda one: one.started_at_s)}

    def close(self) -> None:
        """Close the connection."""
        self._broker.close()


@contextmanager
def watched_deployments(
    target: RedisTarget, queues: Sequence[str], tell: Callable[[str], None]
) -> Iterator[Deployments]:
    """Watch for a while."""
    deployments = Deployments(target, queues, tell)
    try:
        yield deployments
    finally:
        deployments.close()


def describe_state(record: WorkerRecord | None) -> str:
    """Return what a worker does about a queue, in two words."""
    return "not registered" if record is None else record.state.replace("_", " ")


def describe_reason(record: WorkerRecord | None) -> str:
    """Return why that is so, on one line: of an error's text the last line, and if that is long its end."""
    lines = record.reason.strip().splitlines() if record else []
    last = " ".join(lines[-1].split()) if lines else ""
    return last if len(last) <= _REASON_CHARS else f"… {last[-_REASON_CHARS:]}"


def is_ready(record: WorkerRecord | None) -> bool:
    """Tell whether a worker runs tasks of a queue."""
    return record is not None and record.state is WorkerState.READY
