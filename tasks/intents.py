"""Enqueue once what a committed row asks for: a fire of a schedule, a copy of a bulk action, a member of a batch.

The caller commits a row with the id of the task, its Redis queue and Redis's time. Then it enqueues the task and marks
the row. A process that finds the row unmarked repeats this: Redis remembers the id for a day, also of a task that has
ended and was deleted. After that it is unknown whether the task was enqueued.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from queues.catalog import QueueCatalog
from queues.queries import get_fresh_catalog
from runqy.broker.broker import Broker
from runqy.broker.constants import BATCH_MAX_TASKS
from runqy.broker.memory import ensure_memory, send_all_with_memory_check
from runqy.broker.request import AnyBroker, Request
from runqy.broker.tasks.enqueue import (
    IDEMPOTENCY_TTL_S,
    EnqueuedTooLate,
    LockConflict,
    NewTask,
    Replayed,
    UniqueOutcome,
)
from runqy.core.telemetry.tracing import enqueue_span, request_id_context, trace_headers
from runqy.errors import (
    BrokerFull,
    BrokerUnavailable,
    IdempotencyKeyReused,
    QueueDisabled,
    QueueFull,
    QueueNotFound,
    RunqyError,
    TaskAlreadyExists,
    TaskNotUnique,
)
from tasks.enqueue_many import claim_lookups
from tasks.operations import build_task, enqueue_built_task_once, ensure_enabled, find_enqueued_once, task_id_used

MAX_AGE_S = IDEMPOTENCY_TTL_S - 3600
"""How long after its row a task may be enqueued: an hour less than Redis remembers its id."""
DELAYS = (QueueFull, QueueDisabled, QueueNotFound, BrokerUnavailable)
"""Errors that may pass: the intent stays open."""


class IntentState(StrEnum):
    """What became of an intent."""

    ENQUEUED = "enqueued"
    """The task was enqueued, now or by an earlier try; it may have ended since."""
    DELAYED = "delayed"
    """It was not enqueued, and may be tried again."""
    REFUSED = "refused"
    """It was not enqueued, and another try would fail the same way."""
    UNKNOWN = "unknown"
    """The row is older than MAX_AGE_S: the task may have been enqueued, and must not be now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """A task to enqueue once."""

    task: NewTask
    """As a client requests it. Its id, and its queue, the Redis queue, are those of the row."""
    owner: str = ""
    """Who asks, if a client may have made the id: a task that another enqueued with it is not this one. Empty: the id
    is random."""
    requested_s: int
    """Redis's time (Unix s) at the row, which was committed."""
    until_s: int | None = None
    """Redis enqueues nothing after this time: what a stopped process does later must not count. None: MAX_AGE_S after
    the row."""
    request_id: str
    """The id of the request in the task's headers: what asked for it."""
    parents: Collection[str] = ()
    """The names of the queues that the row is of. Its Redis queue may have become another queue's since. Empty: any."""
    is_only_checked: bool = False
    """Enqueue nothing more: only find out whether an earlier try enqueued the task. If not, it is delayed."""

    @property
    def enqueued_until_s(self) -> int:
        last_s = self.requested_s + MAX_AGE_S
        return last_s if self.until_s is None else min(self.until_s, last_s)


@dataclass(frozen=True, slots=True)
class IntentOutcome:
    """What became of an intent, and why."""

    state: IntentState
    error: RunqyError | None = None
    """Why it is delayed or refused; None if it is too late (`until_s`), or only checked."""
    is_absent: bool = False
    """Of a delayed one: Redis said that no try has enqueued it. A new row could ask for it from now on."""

    @property
    def reason(self) -> str:
        return self.error.detail if self.error is not None else ""


_ENQUEUED = IntentOutcome(IntentState.ENQUEUED)
_UNKNOWN = IntentOutcome(IntentState.UNKNOWN)
_NOT_ENQUEUED = IntentOutcome(IntentState.DELAYED)


def enqueue_intents(broker: Broker, intents: Sequence[Intent]) -> list[IntentOutcome]:
    """Enqueue the tasks of committed rows, each once, and return the outcomes in order.

    It takes a round trip for each Redis queue and BATCH_MAX_TASKS. Raise BrokerUnavailable or ConfigurationUnavailable
    if nothing is known: repeat the call.
    """
    catalog = get_fresh_catalog()
    by_queue: defaultdict[str, list[int]] = defaultdict(list)
    for index, intent in enumerate(intents):
        by_queue[intent.task.queue].append(index)
    outcomes: dict[int, IntentOutcome] = {}
    for indexes in by_queue.values():
        for start in range(0, len(indexes), BATCH_MAX_TASKS):
            chunk = indexes[start : start + BATCH_MAX_TASKS]
            found = broker.run(_enqueue_chunk(broker, [intents[index] for index in chunk], catalog))
            outcomes |= zip(chunk, found, strict=True)
    return [outcomes[index] for index in range(len(intents))]


async def _enqueue_chunk(broker: AnyBroker, intents: Sequence[Intent], catalog: QueueCatalog) -> list[IntentOutcome]:
    """Enqueue the tasks of one Redis queue in one round trip."""
    queue, now_ns = intents[0].task.queue, broker.now_ns()
    size = sum(len(intent.task.payload) for intent in intents)
    tasks: list[NewTask | IntentOutcome] = [_build(intent, catalog, now_ns) for intent in intents]
    try:
        await ensure_memory(broker, queue, size_bytes=size)
    except (BrokerFull, QueueFull) as error:
        refusal = IntentOutcome(IntentState.DELAYED, error)
        tasks = [refusal if isinstance(task, NewTask) else task for task in tasks]
    if broker.is_cluster and any(intent.owner for intent in intents):
        tasks = await _claim_lookups(broker, tasks)
    requests: list[Request[UniqueOutcome] | Request[Replayed | None]] = [
        enqueue_built_task_once(
            task, now_ns=now_ns, is_cluster=broker.is_cluster, until_s=intent.enqueued_until_s, owner=intent.owner
        )
        if isinstance(task, NewTask)
        # An earlier try may have enqueued it before its process was killed.
        else find_enqueued_once(queue, intent.task.id, intent.owner)
        for intent, task in zip(intents, tasks, strict=True)
    ]
    replies = await send_all_with_memory_check(broker, requests, queue=queue, size_bytes=size)
    # A refused task's index entry stays in a cluster: another process may have enqueued it; the sweep removes it else.
    return [_outcome(*found) for found in zip(intents, tasks, replies, strict=True)]


async def _claim_lookups(broker: AnyBroker, tasks: Sequence[NewTask | IntentOutcome]) -> list[NewTask | IntentOutcome]:
    """Write the lookups of tasks. Those whose ids belong to tasks of other queues are refused."""
    claims = iter(await claim_lookups(broker, [task for task in tasks if isinstance(task, NewTask)]))
    claimed = [next(claims) if isinstance(task, NewTask) else task for task in tasks]
    return [_failed(task) if isinstance(task, RunqyError) else task for task in claimed]


def _failed(error: RunqyError) -> IntentOutcome:
    return IntentOutcome(IntentState.DELAYED if isinstance(error, DELAYS) else IntentState.REFUSED, error)


def _build(intent: Intent, catalog: QueueCatalog, now_ns: int) -> NewTask | IntentOutcome:
    """Return the task to enqueue, or what becomes of the intent if it was not enqueued before."""
    if now_ns > (intent.requested_s + MAX_AGE_S) * 10**9:
        return _UNKNOWN
    if intent.is_only_checked:
        return _NOT_ENQUEUED
    try:
        resolved = catalog.resolve(intent.task.queue)
        ensure_enabled(resolved)
        with request_id_context(intent.request_id), enqueue_span(intent.task.queue, ""):
            headers: Mapping[str, str] = trace_headers()
            # Not the Redis queue that its name means now: the record of its id is in that of the row.
            task = build_task(intent.task, resolved, task_id=intent.task.id, now_ns=now_ns, headers=headers)
        is_same = task.queue == intent.task.queue and (not intent.parents or resolved.queue.name in intent.parents)
        return task if is_same else _moved(intent)
    except RunqyError as error:
        return _failed(error)


def _moved(intent: Intent) -> IntentOutcome:
    name = intent.task.queue
    return IntentOutcome(IntentState.REFUSED, QueueNotFound(f"The Redis queue {name} no longer belongs to a queue."))


def _outcome(
    intent: Intent, task: NewTask | IntentOutcome, reply: UniqueOutcome | Replayed | RunqyError | None
) -> IntentOutcome:
    if isinstance(task, IntentOutcome):
        is_absent = reply is None and task.state is IntentState.DELAYED
        return _ENQUEUED if isinstance(reply, Replayed) else replace(task, is_absent=is_absent)
    match reply:
        case LockConflict(task_id=task_id):
            return IntentOutcome(IntentState.REFUSED, TaskNotUnique(f"Task {task_id} has this unique_key."))
        case EnqueuedTooLate():
            return _NOT_ENQUEUED
        case TaskAlreadyExists() | IdempotencyKeyReused():  # if the id is random, it is this task
            return _failed(task_id_used(intent.task.id)) if intent.owner else _ENQUEUED
        case RunqyError():
            # A queue is found full after the record, which would say that the task was enqueued.
            return replace(_failed(reply), is_absent=isinstance(reply, QueueFull))
    return _ENQUEUED
