"""Hands out tasks to workers: which queue is asked first, and what a dequeue returns."""

import random
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain
from typing import Any

import msgspec

from runqy.broker import keys, timing
from runqy.broker.asynq_pb2 import TaskMessage
from runqy.broker.keys import QueueKeys
from runqy.broker.lease import Lease, LeasedTask
from runqy.broker.links import Reply
from runqy.broker.message import MessageUnreadable, decode
from runqy.broker.operation import Operation, Request, ask_all, get_context, raise_error
from runqy.broker.scripts import Value, command, script
from runqy.errors import RunqyError


class DequeueRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker asks for: some free slots, and for each the order in which it looks at the queues."""

    queues: tuple[str, ...]
    """Redis queues."""
    lease_tokens: tuple[str, ...]
    """One new token for each free slot."""
    preferences: tuple[tuple[int, ...], ...]
    """For each slot the positions in `queues`, the one to ask first at the front."""
    worker_id: str
    lease_s: int = timing.LEASE_S
    wake_token: str = ""
    """With one, a worker that gets less than it asked for is woken through `keys.wake_channel` when a task comes."""
    idle_s: float = 2 * timing.POLL_S
    """How long the wake-up counts; longer than the time to the next dequeue."""
    has_more_slots: bool = False
    """The worker has free slots beyond these, so it is idle whatever it gets."""
    is_repeat: bool = False
    """Look first for what an earlier dequeue with these tokens got."""

    def repeated(self) -> "DequeueRequest":
        """Return this request for asking again after a lost reply: the same tokens get the same tasks."""
        return msgspec.structs.replace(self, is_repeat=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueWeight:
    """A Redis queue that a worker serves, and how much it counts against the others."""

    queue: str
    priority: int = 1


def plan_dequeue(
    weights: Sequence[QueueWeight], count: int, *, worker_id: str, is_strict: bool = False, wake_token: str = ""
) -> DequeueRequest:
    """Ask for up to `count` tasks: by descending priority when strict, else each slot draws its own weighted order."""
    return DequeueRequest(
        queues=tuple(weight.queue for weight in weights),
        lease_tokens=tuple(secrets.token_hex(12) for _ in range(count)),
        preferences=_preferences([weight.priority for weight in weights], count, is_strict=is_strict),
        worker_id=worker_id,
        wake_token=wake_token,
    )


def dequeue(request: DequeueRequest, *, now_ns: int) -> Request[list[LeasedTask]]:
    """Take tasks of all queues in one script call; in a cluster only for queues that share a slot."""
    now_ms = now_ns // 1_000_000
    lease_end_s = now_ms // 1000 + request.lease_s
    queue_keys, names = _spelled(request.queues)
    rest: list[Value] = [*names]
    for token, preference in zip(request.lease_tokens, request.preferences, strict=True):
        rest.append(token)
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
        queue_count=len(request.queues),
        rest=rest,
    )
    return Request((call,), partial(_leased_tasks, request.queues, lease_end_s))


def dequeue_tasks(
    request: DequeueRequest, *, now_ns: int, together_with: Sequence[Request[Any]] = ()
) -> Operation[tuple[list[LeasedTask], list[Any]]]:
    """Take tasks wherever the queues live, and run other requests in the same round trip, ahead of the dequeue.

    Returns the tasks, and the other requests' outcomes or RunqyErrors in their order. In a cluster, where no script
    reaches all queues, a second round trip dequeues from those that had tasks. Raises BrokerUnavailable.
    """
    context = yield from get_context()
    if context.is_cluster and len(request.queues) > 1:
        return (yield from _dequeue_across_slots(request, now_ns, together_with))
    *others, taken = yield from ask_all([*together_with, dequeue(request, now_ns=now_ns)])
    return raise_error(taken), others


def _dequeue_across_slots(
    request: DequeueRequest, now_ns: int, together_with: Sequence[Request[Any]]
) -> Operation[tuple[list[LeasedTask], list[Any]]]:
    """Look where tasks wait, deal the slots out to those queues, and take from every queue its share."""
    recalls = [dequeue(recall, now_ns=now_ns) for recall in _recalls(request)]
    *others, waiting = yield from ask_all([*together_with, *recalls, _count_waiting(request.queues)])
    recalled = _joined(others[len(together_with) :])
    request = _without(request, {taken.lease.token for taken in recalled})
    dequeues = [dequeue(part, now_ns=now_ns) for part in _parts(request, raise_error(waiting))]
    outcomes = yield from ask_all(dequeues)
    return recalled + _joined(outcomes), others[: len(together_with)]


def _recalls(request: DequeueRequest) -> list[DequeueRequest]:
    """Return requests for what an earlier dequeue with these tokens got from each queue; none if there was none."""
    if not request.is_repeat:
        return []
    nowhere = ((-1,),) * len(request.lease_tokens)
    return [
        msgspec.structs.replace(request, queues=(queue,), preferences=nowhere, wake_token="")
        for queue in request.queues
    ]


def _without(request: DequeueRequest, tokens: set[str]) -> DequeueRequest:
    """Return the request for those of its slots that have nothing yet."""
    left = [slot for slot in zip(request.lease_tokens, request.preferences, strict=True) if slot[0] not in tokens]
    return msgspec.structs.replace(
        request, lease_tokens=tuple(token for token, _ in left), preferences=tuple(p for _, p in left), is_repeat=False
    )


def _parts(request: DequeueRequest, waiting: list[int]) -> list[DequeueRequest]:
    """Split a request by queue. Every queue is asked, if only so that it knows of a worker with a free slot."""
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


def _joined(outcomes: Sequence[list[LeasedTask] | RunqyError]) -> list[LeasedTask]:
    """Return the tasks of several dequeues together."""
    return [taken for outcome in outcomes for taken in raise_error(outcome)]


def _count_waiting(queues: Sequence[str]) -> Request[list[int]]:
    """Count the tasks that each queue would hand out."""
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


def _preferences(priorities: Sequence[int], count: int, *, is_strict: bool) -> tuple[tuple[int, ...], ...]:
    """Draw for each slot the order in which queues are asked."""
    positions = range(len(priorities))
    if len(priorities) == 1:
        return ((0,),) * count
    if is_strict:
        return (tuple(sorted(positions, key=lambda i: -priorities[i])),) * count
    return tuple(tuple(sorted(positions, key=lambda i: _draw(priorities[i]))) for _ in range(count))


def _draw(priority: int) -> float:
    """Draw a waiting time. The shortest of several is a queue's with its priority's share of the sum.

    This is the order of first appearances in asynq's shuffled bag, without making the bag.
    """
    return random.expovariate(max(priority, 1))


@lru_cache(maxsize=1000)
def _spelled(names: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the keys of queues, and their names and the prefixes of their tasks, as dequeue.lua expects them."""
    queues = [QueueKeys(name) for name in names]
    keys_of_all = [(queue.pending, queue.active, queue.lease, queue.paused, queue.idle) for queue in queues]
    return tuple(chain.from_iterable(keys_of_all)), (*names, *(queue.task_prefix for queue in queues))


def _leased_tasks(queues: tuple[str, ...], lease_end_s: int, replies: Sequence[Reply]) -> list[LeasedTask]:
    """Read what the script handed out."""
    return [_read_leased_task(queues, lease_end_s, entry) for entry in replies[0]]


def _read_leased_task(queues: tuple[str, ...], lease_end_s: int, entry: Sequence[Any]) -> LeasedTask:
    """Read one task that was handed out."""
    position, task_id, token, data, child_deaths = entry
    lease = Lease(queue=queues[position - 1], task_id=task_id.decode(errors="replace"), token=token.decode())
    try:
        message, is_readable = decode(data), lease.task_id.encode() == task_id
    except MessageUnreadable:
        message, is_readable = TaskMessage(id=lease.task_id, queue=lease.queue, type=lease.queue), False
    return LeasedTask(
        lease=lease,
        message=message,
        lease_end_s=lease_end_s,
        child_deaths=int(child_deaths),
        is_readable=is_readable,
    )
