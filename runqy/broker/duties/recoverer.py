"""Recover tasks of lost workers: expired leases, active ids without lease or task, stale groups.

Finding and recovering are two steps, because Python changes the message in between. The second step compares lease
token, lease and cancellation with those that the first read: a worker that returned keeps its task, and recoverers may
run concurrently.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import structlog

from runqy.broker import keys as redis_keys
from runqy.broker import message as messages
from runqy.broker.asynq_pb2 import TaskMessage
from runqy.broker.constants import COUNTER_TTL_S, RECOVERY_GRACE_S
from runqy.broker.keys import QueueKeys, counter_day
from runqy.broker.replies import Reply
from runqy.broker.request import AnyBroker, Request
from runqy.broker.scanning import for_each_queue, run_requests
from runqy.broker.scripts import Command, command, script
from runqy.broker.states import RunOutcome, TaskState
from runqy.broker.streams.run_log import RunInfo, make_details
from runqy.broker.tasks.archive_reasons import LEASE_EXPIRED, ErrorClass
from runqy.broker.tasks.record import make_failure

SLICE_SIZE = 500
GROUP_SETS_PER_CALL = 10
MESSAGES_PER_CALL = 50
LEASELESS_GRACE_S = 10
"""How long an id may be in `active` without a lease before it counts as lost: Go's worker writes the lease later."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class LostTask:
    """An active task as it was read. Texts that are missing in Redis are empty."""

    queue: str
    task_id: str
    lease: str
    lease_token: str
    cancel: str


@dataclass(slots=True)
class LeaselessWatch:
    """Remembers since when, in Unix s, active tasks have been without a lease."""

    since_s: dict[LostTask, int] = field(default_factory=dict)

    def overdue(self, seen: Sequence[LostTask], now_s: int) -> list[LostTask]:
        """Return the tasks that have been without a lease for long enough, and forget those that are not in `seen`."""
        self.since_s = {task: self.since_s.get(task, now_s) for task in seen}
        return [task for task in seen if now_s - self.since_s[task] >= LEASELESS_GRACE_S]


def find_lost(queue: str, *, now_ns: int, grace_s: int, offset: int = 0) -> Request[tuple[int, list[LostTask]]]:
    """Find lost tasks in one slice of the active ids. Return the size of the slice, and the tasks."""
    keys = QueueKeys.of(queue)
    find = script("find_lost")(
        lease=keys.lease,
        active=keys.active,
        task_prefix=keys.task_prefix,
        cutoff_s=now_ns // 1_000_000_000 - grace_s,
        offset=offset,
        limit=SLICE_SIZE,
    )

    def parse(replies: Sequence[Reply]) -> tuple[int, list[LostTask]]:
        size, rows = replies[0]
        return size, [LostTask(queue, *(part.decode(errors="replace") for part in row)) for row in rows]

    return Request((find,), parse)


def recover(task: LostTask, stored: bytes | None, *, now_ns: int) -> Request[TaskState | None]:
    """Retry or archive a lost task, given its message, if it is unchanged; return its new state.

    The attempt counts as failed and spends a retry; the task is due immediately. None: it was not recovered, because it
    changed, was deleted, or is in the index of another state.
    """
    state, message = _state_after_loss(task, stored, now_s=now_ns // 1_000_000_000)
    info = RunInfo(error_class=ErrorClass.WORKER_LOST)
    details = make_details(_decode(stored), info, error=LEASE_EXPIRED)
    recovery = _recover_call(task, state, message, details, now_ns=now_ns)
    return Request((recovery,), lambda replies: state if replies[0] == 1 else None)


def reclaim_groups(queue: str, *, now_ns: int, limit: int = GROUP_SETS_PER_CALL) -> Request[int]:
    """Move stale aggregation sets back to their groups; return how many were checked."""
    keys = QueueKeys.of(queue)
    reclaim = script("reclaim_groups")(
        aggregation_sets=keys.aggregation_sets,
        groups=keys.groups,
        group_prefix=keys.group(""),
        now_s=now_ns // 1_000_000_000,
        limit=limit,
    )
    return Request((reclaim,), lambda replies: int(replies[0]))


async def recover_lost(
    broker: AnyBroker, queues: Sequence[str], watch: LeaselessWatch, *, grace_s: int = RECOVERY_GRACE_S
) -> list[tuple[LostTask, TaskState]]:
    """Recover the lost tasks of these queues; return each with its new state."""
    lost = await _find_all_lost(broker, queues, grace_s=grace_s)
    now_ns = broker.now_ns()
    overdue = watch.overdue([task for task in lost if not task.lease], now_ns // 1_000_000_000)
    recovered = await _recover_all(broker, overdue)
    while expired := [task for task in lost if task.lease]:
        batch = await _recover_all(broker, expired)
        now_ns = broker.now_ns()
        recovered += batch
        counts = Counter(task.queue for task in expired)
        # Not again after a full slice of which nothing was recovered: the next would be the same.
        more = [queue for queue, count in counts.items() if batch and count == SLICE_SIZE]
        found = await run_requests(broker, {q: find_lost(q, now_ns=now_ns, grace_s=grace_s) for q in more})
        lost = [task for _, tasks in found.values() for task in tasks]
    await for_each_queue(
        broker,
        queues,
        partial(reclaim_groups, now_ns=now_ns),
        has_more=lambda count: count == GROUP_SETS_PER_CALL,
    )
    return recovered


async def _find_all_lost(broker: AnyBroker, queues: Sequence[str], *, grace_s: int) -> list[LostTask]:
    now_ns = broker.now_ns()
    offsets = dict.fromkeys(queues, 0)

    def make(queue: str) -> Request[tuple[int, list[LostTask]]]:
        offset, offsets[queue] = offsets[queue], offsets[queue] + SLICE_SIZE
        return find_lost(queue, now_ns=now_ns, grace_s=grace_s, offset=offset)

    outcomes = await for_each_queue(broker, queues, make, has_more=lambda outcome: outcome[0] == SLICE_SIZE)
    return list(dict.fromkeys(task for _, (_, tasks) in outcomes for task in tasks))


async def _recover_all(broker: AnyBroker, lost: Sequence[LostTask]) -> list[tuple[LostTask, TaskState]]:
    """Read the messages and recover the tasks, some at a time, because payloads may be large."""
    recovered: list[tuple[LostTask, TaskState]] = []
    for start in range(0, len(lost), MESSAGES_PER_CALL):
        batch = {f"{task.queue}:{task.task_id}": task for task in lost[start : start + MESSAGES_PER_CALL]}
        stored = await run_requests(broker, {name: _read_message(task) for name, task in batch.items()})
        now_ns = broker.now_ns()
        states = await run_requests(
            broker, {name: recover(batch[name], stored[name], now_ns=now_ns) for name in stored}
        )
        for name, state in states.items():
            if state is not None:
                recovered.append((batch[name], state))
                _log.warning("task_recovered", queue=batch[name].queue, task=batch[name].task_id, state=state.value)
    return recovered


def _read_message(task: LostTask) -> Request[bytes | None]:
    key = QueueKeys.of(task.queue).task(task.task_id)
    return Request((command("HGET", key, "msg", key=key),), lambda replies: replies[0])


def _state_after_loss(task: LostTask, stored: bytes | None, *, now_s: int) -> tuple[TaskState, bytes]:
    """Return the new state and message of a lost task. If the message is unreadable, it is archived with it."""
    message = _decode(stored)
    if message is None:
        return TaskState.ARCHIVED, stored or b""
    ends = bool(task.cancel) or message.retried >= message.retry
    failed = messages.as_failed(
        message, error=messages.CANCELED if task.cancel else LEASE_EXPIRED, now_s=now_s, spends_retry=not ends
    )
    return TaskState.ARCHIVED if ends else TaskState.RETRY, failed.SerializeToString()


def _decode(stored: bytes | None) -> TaskMessage | None:
    try:
        return messages.decode(stored or b"")
    except messages.MessageUnreadable:
        return None


def _recover_call(task: LostTask, state: TaskState, message: bytes, details: bytes, *, now_ns: int) -> Command:
    keys = QueueKeys.of(task.queue)
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
        seen_token=task.lease_token,
        seen_cancel=task.cancel,
        counters_expire_at=now_s + COUNTER_TTL_S,
        ended_channel=redis_keys.ended_channel(task.task_id),
        runs=keys.runs,
        counters=keys.run_counters,
        run_id=task.lease_token or f"lost-{now_ns}",  # workers of other programs have no token
        outcome=(RunOutcome.CANCELED if task.cancel else RunOutcome.LOST).value,
        now_ns=now_ns,
        details=details,
        failure=make_failure(messages.CANCELED) if task.cancel else make_failure(LEASE_EXPIRED, ErrorClass.WORKER_LOST),
    )
