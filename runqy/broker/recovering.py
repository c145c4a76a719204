"""Takes tasks back from workers that were lost: leases that ended, running ids without lease or task, stale groups.

Finding and recovering are two steps, because the message is changed between them. The second compares owner, lease
and cancel mark with what the first saw, so that a worker that came back keeps its task, and two recoverers do no harm.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import structlog

from runqy.broker import keys as redis_keys
from runqy.broker import message as messages
from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys, counter_day
from runqy.broker.links import Reply
from runqy.broker.operation import Request
from runqy.broker.scripts import Command, command, script
from runqy.broker.states import TaskState
from runqy.broker.sweeping import run_each, sweep
from runqy.broker.timing import COUNTER_TTL_S, RECOVERY_GRACE_S

LEASE_EXPIRED = "task lease expired"
SLICE = 500
GROUP_SETS = 10
MESSAGES_AT_ONCE = 50
LEASELESS_WAIT_S = 10
"""How long an id stands in `active` without a lease before it counts as lost: Go's worker writes them in turn."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class LostTask:
    """A running task as it was seen; texts are empty where Redis has nothing."""

    queue: str
    task_id: str
    lease: str
    owner: str
    cancel: str


@dataclass(slots=True)
class LeaselessWatch:
    """Remembers since when (s) running tasks have been seen without a lease."""

    since_s: dict[LostTask, int] = field(default_factory=dict)

    def overdue(self, seen: Sequence[LostTask], now_s: int) -> list[LostTask]:
        """Return those that have gone without a lease for long enough; forget those not seen any more."""
        self.since_s = {task: self.since_s.get(task, now_s) for task in seen}
        return [task for task in seen if now_s - self.since_s[task] >= LEASELESS_WAIT_S]


def find_lost(queue: str, *, now_ns: int, grace_s: int, offset: int = 0) -> Request[tuple[int, list[LostTask]]]:
    """Find lost tasks; of the running ids one slice is looked at. Returns the slice's size beside them."""
    keys = QueueKeys(queue)
    find = script("find_lost")(
        lease=keys.lease,
        active=keys.active,
        task_prefix=keys.task_prefix,
        cutoff_s=now_ns // 1_000_000_000 - grace_s,
        offset=offset,
        limit=SLICE,
    )

    def parse(replies: Sequence[Reply]) -> tuple[int, list[LostTask]]:
        size, rows = replies[0]
        return size, [LostTask(queue, *(part.decode(errors="replace") for part in row)) for row in rows]

    return Request((find,), parse)


def recover(task: LostTask, stored: bytes | None, *, now_ns: int) -> Request[TaskState | None]:
    """Retry or archive a lost task, given its message, if it is still as it was seen; return its new state.

    The attempt counts as failed and spends a retry (contract 3.15); it is due again at once. None: nothing was
    recovered, because the task changed, is gone, or is listed where its state says.
    """
    state, message = _after_loss(task, stored, now_s=now_ns // 1_000_000_000)
    recovery = _recovery(task, state, message, now_ns=now_ns)
    return Request((recovery,), lambda replies: state if replies[0] == 1 else None)


def reclaim_groups(queue: str, *, now_ns: int, limit: int = GROUP_SETS) -> Request[int]:
    """Give stale aggregation sets back to their groups (contract 3.18), and tell how many were looked at."""
    keys = QueueKeys(queue)
    reclaim = script("reclaim_groups")(
        aggregation_sets=keys.aggregation_sets,
        groups=keys.groups,
        group_prefix=keys.group(""),
        now_s=now_ns // 1_000_000_000,
        limit=limit,
    )
    return Request((reclaim,), lambda replies: int(replies[0]))


def recover_lost(
    broker: Broker, queues: Sequence[str], watch: LeaselessWatch, *, grace_s: int = RECOVERY_GRACE_S
) -> list[tuple[LostTask, TaskState]]:
    """Recover what these queues have lost, and tell which tasks went where."""
    lost = _all_lost(broker, queues, grace_s=grace_s)
    overdue = watch.overdue([task for task in lost if not task.lease], broker.now_s())
    recovered = _recover_all(broker, overdue)
    while expired := [task for task in lost if task.lease]:
        some = _recover_all(broker, expired)
        recovered += some
        counts = Counter(task.queue for task in expired)
        more = [queue for queue, count in counts.items() if some and count == SLICE]
        found = run_each(broker, {q: find_lost(q, now_ns=broker.now_ns(), grace_s=grace_s) for q in more})
        lost = [task for _, tasks in found.values() for task in tasks]
    sweep(broker, queues, partial(reclaim_groups, now_ns=broker.now_ns()), has_more=lambda count: count == GROUP_SETS)
    return recovered


def _all_lost(broker: Broker, queues: Sequence[str], *, grace_s: int) -> list[LostTask]:
    """Look through the leases and running ids of these queues."""
    offsets = dict.fromkeys(queues, 0)

    def make(queue: str) -> Request[tuple[int, list[LostTask]]]:
        offset, offsets[queue] = offsets[queue], offsets[queue] + SLICE
        return find_lost(queue, now_ns=broker.now_ns(), grace_s=grace_s, offset=offset)

    outcomes = sweep(broker, queues, make, has_more=lambda outcome: outcome[0] == SLICE)
    return list(dict.fromkeys(task for _, (_, tasks) in outcomes for task in tasks))


def _recover_all(broker: Broker, lost: Sequence[LostTask]) -> list[tuple[LostTask, TaskState]]:
    """Read the messages and recover, some at a time: payloads may be large."""
    recovered: list[tuple[LostTask, TaskState]] = []
    for start in range(0, len(lost), MESSAGES_AT_ONCE):
        some = {f"{task.queue}:{task.task_id}": task for task in lost[start : start + MESSAGES_AT_ONCE]}
        stored = run_each(broker, {name: _message_of(task) for name, task in some.items()})
        now_ns = broker.now_ns()
        states = run_each(broker, {name: recover(some[name], stored[name], now_ns=now_ns) for name in stored})
        for name, state in states.items():
            if state is not None:
                recovered.append((some[name], state))
                _log.warning("task_recovered", queue=some[name].queue, task=some[name].task_id, state=state.value)
    return recovered


def _message_of(task: LostTask) -> Request[bytes | None]:
    """Ask for a task's message."""
    key = QueueKeys(task.queue).task(task.task_id)
    return Request((command("HGET", key, "msg", key=key),), lambda replies: replies[0])


def _after_loss(task: LostTask, stored: bytes | None, *, now_s: int) -> tuple[TaskState, bytes]:
    """Return where a lost task goes, and its message there. One that cannot be read is archived as it is."""
    try:
        message = messages.decode(stored or b"")
    except messages.MessageUnreadable:
        return TaskState.ARCHIVED, stored or b""
    ends = bool(task.cancel) or message.retried >= message.retry
    failed = messages.as_failed(
        message, error=messages.CANCELED if task.cancel else LEASE_EXPIRED, now_s=now_s, spends_retry=not ends
    )
    return TaskState.ARCHIVED if ends else TaskState.RETRY, messages.encode(failed)


def _recovery(task: LostTask, state: TaskState, message: bytes, *, now_ns: int) -> Command:
    """Return the script call that recovers one task."""
    keys = QueueKeys(task.queue)
    now_s = now_ns // 1_000_000_000
    day = counter_day(now_s)
    return script("recover")(
        task=keys.task(task.task_id),
        active=keys.active,
        lease=keys.lease,
        target=keys.index(state),
        processed=keys.processed,
        failed=keys.failed,
        processed_day=keys.processed_on(day),
        failed_day=keys.failed_on(day),
        id=task.task_id,
        task_prefix=keys.task_prefix,
        state=state.value,
        score=now_s,
        message=message,
        seen_lease=task.lease,
        seen_owner=task.owner,
        seen_cancel=task.cancel,
        counters_expire_at=now_s + COUNTER_TTL_S,
        ended_channel=redis_keys.ended_channel(task.task_id),
    )
