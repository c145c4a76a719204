"""Hands out tasks to workers: which queue is asked first, and what a take returns."""

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


class TakeOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker asks for: some free slots, and for each the order in which it looks at the queues."""

    queues: tuple[str, ...]
    """Redis queues."""
    owners: tuple[str, ...]
    """One new token for each free slot."""
    preferences: tuple[tuple[int, ...], ...]
    """For each slot the positions in `queues`, the one to ask first at the front."""
    worker_id: str
    lease_s: int = timing.LEASE_S
    wake_token: str = ""
    """With one, a worker that gets less than it asked for is woken through `keys.wake_channel` when a task comes."""
    idle_s: float = 2 * timing.POLL_S
    """How long the wake-up counts; longer than the time to the next take."""
    has_more_slots: bool = False
    """The worker has free slots beyond these, so it is idle whatever it gets."""
    is_repeat: bool = False
    """Look first for what an earlier take with these owners got."""

    def repeated(self) -> "TakeOrder":
        """Return this order for asking again after a lost reply: the same owners get the same tasks."""
        return msgspec.structs.replace(self, is_repeat=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A Redis queue that a worker serves, and how much it counts against the others."""

    queue: str
    priority: int = 1


def plan_take(
    shares: Sequence[Share], count: int, *, worker_id: str, is_strict: bool = False, wake_token: str = ""
) -> TakeOrder:
    """Order up to `count` tasks: by descending priority when strict, else each slot draws its own weighted order."""
    return TakeOrder(
        queues=tuple(share.queue for share in shares),
        owners=tuple(secrets.token_hex(12) for _ in range(count)),
        preferences=_preferences([share.priority for share in shares], count, is_strict=is_strict),
        worker_id=worker_id,
        wake_token=wake_token,
    )


def take(order: TakeOrder, *, now_ns: int) -> Request[list[LeasedTask]]:
    """Take tasks of all queues in one script call; in a cluster only for queues that share a slot."""
    now_ms = now_ns // 1_000_000
    lease_end_s = now_ms // 1000 + order.lease_s
    queue_keys, names = _spelled(order.queues)
    rest: list[Value] = [*names]
    for owner, preference in zip(order.owners, order.preferences, strict=True):
        rest.append(owner)
        rest.extend(position + 1 for position in preference)
    call = script("take")(
        queue_keys=queue_keys,
        worker=order.worker_id,
        now_ns=now_ns,
        now_ms=now_ms,
        lease_end_s=lease_end_s,
        wake_channel=keys.wake_channel(order.wake_token) if order.wake_token else "",
        idle_until_ms=now_ms + int(order.idle_s * 1000),
        has_more_slots=int(order.has_more_slots),
        is_repeat=int(order.is_repeat),
        queue_count=len(order.queues),
        rest=rest,
    )
    return Request((call,), partial(_taken, order.queues, lease_end_s))


def take_tasks(
    order: TakeOrder, *, now_ns: int, together_with: Sequence[Request[Any]] = ()
) -> Operation[tuple[list[LeasedTask], list[Any]]]:
    """Take tasks wherever the queues live, and run other requests in the same round trip, ahead of the take.

    Returns the tasks, and the other requests' outcomes or RunqyErrors in their order. In a cluster, where no script
    reaches all queues, a second round trip takes from those that had tasks. Raises BrokerUnavailable.
    """
    context = yield from get_context()
    if context.is_cluster and len(order.queues) > 1:
        return (yield from _take_across_slots(order, now_ns, together_with))
    *others, taken = yield from ask_all([*together_with, take(order, now_ns=now_ns)])
    return raise_error(taken), others


def _take_across_slots(
    order: TakeOrder, now_ns: int, together_with: Sequence[Request[Any]]
) -> Operation[tuple[list[LeasedTask], list[Any]]]:
    """Look where tasks wait, deal the slots out to those queues, and take from every queue its share."""
    recalls = [take(recall, now_ns=now_ns) for recall in _recalls(order)]
    *others, waiting = yield from ask_all([*together_with, *recalls, _count_waiting(order.queues)])
    recalled = _joined(others[len(together_with) :])
    order = _without(order, {taken.lease.token for taken in recalled})
    takes = [take(part, now_ns=now_ns) for part in _parts(order, raise_error(waiting))]
    outcomes = yield from ask_all(takes)
    return recalled + _joined(outcomes), others[: len(together_with)]


def _recalls(order: TakeOrder) -> list[TakeOrder]:
    """Return orders that only ask each queue what an earlier take with these owners got; none if there was none."""
    if not order.is_repeat:
        return []
    nowhere = ((-1,),) * len(order.owners)
    return [
        msgspec.structs.replace(order, queues=(queue,), preferences=nowhere, wake_token="") for queue in order.queues
    ]


def _without(order: TakeOrder, owners: set[str]) -> TakeOrder:
    """Return the order for those of its slots that have nothing yet."""
    left = [slot for slot in zip(order.owners, order.preferences, strict=True) if slot[0] not in owners]
    return msgspec.structs.replace(
        order, owners=tuple(owner for owner, _ in left), preferences=tuple(p for _, p in left), is_repeat=False
    )


def _parts(order: TakeOrder, waiting: list[int]) -> list[TakeOrder]:
    """Split an order by queue. Every queue is asked, if only so that it knows of a worker with a free slot."""
    left = list(waiting)
    owners: list[list[str]] = [[] for _ in order.queues]
    for owner, preference in zip(order.owners, order.preferences, strict=True):
        choice = next((position for position in preference if left[position] > 0), preference[0])
        left[choice] -= 1
        owners[choice].append(owner)
    return [
        msgspec.structs.replace(
            order,
            queues=(queue,),
            owners=tuple(mine),
            preferences=((0,),) * len(mine),
            has_more_slots=order.has_more_slots or min(left) < 0,
        )
        for queue, mine in zip(order.queues, owners, strict=True)
    ]


def _joined(outcomes: Sequence[list[LeasedTask] | RunqyError]) -> list[LeasedTask]:
    """Return the tasks of several takes together."""
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
    """Return the keys of queues, and their names and the prefixes of their tasks, as take.lua expects them."""
    queues = [QueueKeys(name) for name in names]
    keys_of_all = [(queue.pending, queue.active, queue.lease, queue.paused, queue.idle) for queue in queues]
    return tuple(chain.from_iterable(keys_of_all)), (*names, *(queue.task_prefix for queue in queues))


def _taken(queues: tuple[str, ...], lease_end_s: int, replies: Sequence[Reply]) -> list[LeasedTask]:
    """Read what the script handed out."""
    return [_read_taken(queues, lease_end_s, entry) for entry in replies[0]]


def _read_taken(queues: tuple[str, ...], lease_end_s: int, entry: Sequence[Any]) -> LeasedTask:
    """Read one task that was handed out."""
    position, task_id, owner, data, child_deaths = entry
    lease = Lease(queue=queues[position - 1], task_id=task_id.decode(errors="replace"), token=owner.decode())
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
