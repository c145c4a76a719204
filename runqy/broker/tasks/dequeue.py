"""Dequeue tasks for workers: the order of their queues, the request and its result."""

import random
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain
from typing import Any

import msgspec

from runqy.broker import constants, keys
from runqy.broker.asynq_pb2 import TaskMessage
from runqy.broker.keys import QueueKeys
from runqy.broker.message import MessageUnreadable, cancellation, decode, restore_limits
from runqy.broker.replies import Reply, read_number, read_time_ns
from runqy.broker.request import AnyBroker, Request, raise_error
from runqy.broker.scripts import Value, command, script
from runqy.broker.tasks.lease import SUSPECT_DEATHS, Lease, LeasedTask
from runqy.errors import RunqyError

_TOKEN_BYTES = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueWeight:
    """A Redis queue that a worker serves, and its weight."""

    queue: str
    priority: int = 1


def order_queues(priorities: Sequence[int], count: int, *, is_strict: bool) -> tuple[tuple[int, ...], ...]:
    """Return for each slot the indexes of the queues in the order in which it tries them."""
    positions = range(len(priorities))
    if len(priorities) == 1:
        return ((0,),) * count
    if is_strict:
        return (tuple(sorted(positions, key=lambda i: -priorities[i])),) * count
    return tuple(tuple(sorted(positions, key=lambda i: _draw_order(priorities[i]))) for _ in range(count))


def _draw_order(priority: int) -> float:
    """Draw a random sort key. The probability that a queue comes first is its share of the sum of priorities.

    asynq shuffles a list in which each queue stands as often as its priority; this has the same distribution without
    the list.
    """
    return random.expovariate(max(priority, 1))


class DequeueRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Free slots of a worker, each with the order in which it tries the queues."""

    queues: tuple[str, ...]
    """Redis queues."""
    lease_tokens: tuple[str, ...]
    """One new token for each free slot."""
    preferences: tuple[tuple[int, ...], ...]
    """For each slot the indexes of `queues`, in the order in which it tries them."""
    worker_id: str
    lease_s: int = constants.LEASE_S
    wake_token: str = ""
    """If set, and fewer tasks are returned than requested, the worker is woken through `keys.wake_channel` when one
    arrives."""
    idle_s: float = 2 * constants.POLL_S
    """How long the wake-up is valid: longer than the time until the next dequeue."""
    has_more_slots: bool = False
    """The worker has more free slots than this request: it counts as idle even if each of these gets a task."""
    ttl_completed_s: int = 0
    active_timeout_s: int = 0
    """The queue's limits, for tasks without any. Go's worker drops those of a message when it retries its task, and
    Go's server stores no others."""
    is_repeat: bool = False
    """First return the tasks that an earlier dequeue leased with the same tokens."""

    def repeated(self) -> "DequeueRequest":
        """Return this request for repetition after a lost reply: the same tokens get the same tasks."""
        return msgspec.structs.replace(self, is_repeat=True)

    def limited_to(self, queues: Collection[str]) -> "DequeueRequest":
        """Return this request without other queues. Tasks that it leased from those are left to the recoverer."""
        kept = [position for position, queue in enumerate(self.queues) if queue in queues]
        if len(kept) == len(self.queues):
            return self
        moved = {before: after for after, before in enumerate(kept)}
        return msgspec.structs.replace(
            self,
            queues=tuple(self.queues[position] for position in kept),
            preferences=tuple(tuple(moved[n] for n in slot if n in moved) for slot in self.preferences),
        )


def plan_dequeue(
    weights: Sequence[QueueWeight], count: int, *, worker_id: str, is_strict: bool = False, wake_token: str = ""
) -> DequeueRequest:
    """Return a request for up to `count` tasks. Each slot tries the queues in weighted random order, or by priority if
    strict.

    A `wake_token` of `new_wake_token` names a process, and so do the tokens: `cancel.lua` publishes to its channel.
    """
    process = wake_token.rpartition(":")[0]
    prefix = f"@{process}:" if process else ""
    digits = secrets.token_hex(_TOKEN_BYTES * count)  # one system call for all
    return DequeueRequest(
        queues=tuple(weight.queue for weight in weights),
        lease_tokens=tuple(prefix + digits[n : n + 2 * _TOKEN_BYTES] for n in range(0, len(digits), 2 * _TOKEN_BYTES)),
        preferences=order_queues([weight.priority for weight in weights], count, is_strict=is_strict),
        worker_id=worker_id,
        wake_token=wake_token,
    )


def dequeue(request: DequeueRequest, *, now_ns: int) -> Request[list[LeasedTask]]:
    """Dequeue from all queues in one script call. In a cluster the queues must share a slot."""
    now_ms = now_ns // 1_000_000
    lease_end_s = now_ms // 1000 + request.lease_s
    queue_keys, names = _script_keys(request.queues)
    rest: list[Value] = [*names]
    for token, preference in zip(request.lease_tokens, request.preferences, strict=True):
        rest.append(token)
        # Lua counts from 1.
        rest.extend(position + 1 for position in preference)
    call = script("dequeue")(
        queue_keys=queue_keys,
        worker=request.worker_id,
        now_ns=now_ns,
        now_ms=now_ms,
        lease_end_s=lease_end_s,
        wake_channel=keys.wake_channel(request.wake_token) if request.wake_token else "",
        idle_until_ms=now_ms + int(request.idle_s * 1000),
        has_more_slots=int(request.has_more_slots),
        is_repeat=int(request.is_repeat),
        cancellation=cancellation(now_s=now_ms // 1000),
        ended_prefix=keys.ended_channel(""),
        queue_count=len(request.queues),
        rest=rest,
    )
    return Request((call,), partial(_leased_tasks, request, lease_end_s))


async def dequeue_tasks(
    broker: AnyBroker, request: DequeueRequest, *, now_ns: int, extra_requests: Sequence[Request[Any]] = ()
) -> tuple[list[LeasedTask] | RunqyError, list[Any]]:
    """Dequeue from all queues, and run other requests before it in the same round trip.

    Return the tasks, and the outcomes of the other requests in order; a failure is its RunqyError in either place. In a
    cluster no script reaches queues of several slots: there a second round trip dequeues from the queues that have
    tasks. Raise BrokerUnavailable.
    """
    if broker.is_cluster and len(request.queues) > 1:
        return await _dequeue_across_slots(broker, request, now_ns, extra_requests)
    *others, taken = await broker.send_all([*extra_requests, dequeue(request, now_ns=now_ns)])
    return taken, others


async def _dequeue_across_slots(
    broker: AnyBroker, request: DequeueRequest, now_ns: int, extra_requests: Sequence[Request[Any]]
) -> tuple[list[LeasedTask] | RunqyError, list[Any]]:
    """Count pending tasks, assign the slots to queues that have some, and dequeue from each."""
    recalls = [dequeue(recall, now_ns=now_ns) for recall in _repeat_by_queue(request)]
    outcomes = await broker.send_all([*extra_requests, *recalls, _count_pending(request.queues)])
    others, [*recalled, waiting] = outcomes[: len(extra_requests)], outcomes[len(extra_requests) :]
    try:
        tasks = _concatenate(recalled)
        request = _without_slots(request, {task.lease.token for task in tasks})
        dequeues = [dequeue(part, now_ns=now_ns) for part in _split_by_queue(request, raise_error(waiting))]
        tasks += _concatenate(await broker.send_all(dequeues))
    except RunqyError as error:
        return error, others
    return tasks, others


def _repeat_by_queue(request: DequeueRequest) -> list[DequeueRequest]:
    """Return a request per queue for the tasks that an earlier dequeue leased; empty unless this is a repetition."""
    if not request.is_repeat:
        return []
    # Becomes position 0, which names no queue: the script returns what is leased and takes nothing new.
    nowhere = ((-1,),) * len(request.lease_tokens)
    return [
        msgspec.structs.replace(request, queues=(queue,), preferences=nowhere, wake_token="")
        for queue in request.queues
    ]


def _without_slots(request: DequeueRequest, tokens: set[str]) -> DequeueRequest:
    left = [slot for slot in zip(request.lease_tokens, request.preferences, strict=True) if slot[0] not in tokens]
    return msgspec.structs.replace(
        request, lease_tokens=tuple(token for token, _ in left), preferences=tuple(p for _, p in left), is_repeat=False
    )


def _split_by_queue(request: DequeueRequest, waiting: list[int]) -> list[DequeueRequest]:
    """Split a request by queue. Queues that get no slot are included: they learn of a worker that waits."""
    left = list(waiting)
    tokens: list[list[str]] = [[] for _ in request.queues]
    for token, preference in zip(request.lease_tokens, request.preferences, strict=True):
        choice = next((position for position in preference if left[position] > 0), preference[0])
        left[choice] -= 1
        tokens[choice].append(token)
    return [
        msgspec.structs.replace(
            request,
            queues=(queue,),
            lease_tokens=tuple(mine),
            preferences=((0,),) * len(mine),
            has_more_slots=request.has_more_slots or min(left) < 0,
        )
        for queue, mine in zip(request.queues, tokens, strict=True)
    ]


def _concatenate(outcomes: Sequence[list[LeasedTask] | RunqyError]) -> list[LeasedTask]:
    return [taken for outcome in outcomes for taken in raise_error(outcome)]


def _count_pending(queues: Sequence[str]) -> Request[list[int]]:
    commands = []
    for queue in map(QueueKeys, queues):
        commands.append(command("LLEN", queue.pending, key=queue.pending))
        commands.append(command("EXISTS", queue.paused, key=queue.paused))
    return Request(
        commands=tuple(commands),
        parse=lambda replies: [
            0 if is_paused else count for count, is_paused in zip(replies[::2], replies[1::2], strict=True)
        ],
    )


@lru_cache(maxsize=1000)
def _script_keys(names: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    queues = [QueueKeys.of(name) for name in names]
    keys_of_all = [(queue.pending, queue.active, queue.lease, queue.paused, queue.idle) for queue in queues]
    return tuple(chain.from_iterable(keys_of_all)), (*names, *(queue.task_prefix for queue in queues))


def _leased_tasks(request: DequeueRequest, lease_end_s: int, replies: Sequence[Reply]) -> list[LeasedTask]:
    return [_read_leased_task(request, lease_end_s, entry) for entry in replies[0]]


def _read_leased_task(request: DequeueRequest, lease_end_s: int, entry: Sequence[Any]) -> LeasedTask:
    position, task_id, token, data, attempt, run_number, *fields = entry
    # Most tasks have few of these fields.
    limits = [0 if text is None else read_number(text) or 0 for text in fields[:4]]
    child_deaths, ttl_completed_s, active_timeout_s, retried = limits
    lease = Lease(queue=request.queues[position - 1], task_id=task_id.decode(errors="replace"), token=token.decode())
    try:
        message, is_readable = decode(data), lease.task_id.encode() == task_id
        # Go's worker retried a task of Go's server: all limits are lost, so those of the queue apply.
        if not (fields[1] or fields[2] or message.retention or message.timeout or message.deadline):
            ttl_completed_s, active_timeout_s = request.ttl_completed_s, request.active_timeout_s
        restore_limits(message, ttl_completed_s=ttl_completed_s, active_timeout_s=active_timeout_s, retried=retried)
    except MessageUnreadable:
        message, is_readable = TaskMessage(id=lease.task_id, queue=lease.queue, type=lease.queue), False
    return LeasedTask(
        lease=lease,
        message=message,
        lease_end_s=lease_end_s,
        attempt=int(attempt),
        run_number=read_number(run_number) or 0,
        child_deaths=child_deaths,
        is_suspect=bool(fields[5]) and (read_number(fields[5]) or 0) >= SUSPECT_DEATHS,
        pending_since_ns=read_time_ns(fields[4]) or 0,
        is_readable=is_readable,
        wants_result=bool(fields[6]) and fields[6].startswith(b"1"),
    )
