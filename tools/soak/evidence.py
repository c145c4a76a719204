"""Read from Redis what is left when the queues have drained, without the product's own code for reading tasks."""

import contextlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis as redis_py

from runqy.broker import keys
from runqy.broker.keys import QueueKeys
from runqy.broker.message import decode
from runqy.broker.states import TaskState
from tools.soak.checker import QueueCounts, StoredTask

LISTS = (TaskState.PENDING, TaskState.ACTIVE)
STATES = (*LISTS, TaskState.SCHEDULED, TaskState.RETRY, TaskState.ARCHIVED, TaskState.COMPLETED)
UNENDED = (*LISTS, TaskState.SCHEDULED, TaskState.RETRY)
_BATCH = 1000


@dataclass(slots=True, kw_only=True)
class StoredState:
    """What Redis holds of tasks."""

    tasks: dict[str, StoredTask] = field(default_factory=dict)
    counts: dict[str, QueueCounts] = field(default_factory=dict)
    dangling_ids: list[str] = field(default_factory=list)
    locks: list[str] = field(default_factory=list)
    orphan_lookups: int = 0


def count_unended(queues: Iterable[str], nodes: Sequence[redis_py.Redis]) -> int:
    return sum(_count_unended(node, QueueKeys(queue)) for node in nodes for queue in queues if _serves(node, queue))


def read_state(
    queues: Iterable[str], nodes: Sequence[redis_py.Redis], reported: dict[str, dict[str, int]]
) -> StoredState:
    """Read all tasks of some queues, their indexes, counters, locks and lookups."""
    found = StoredState()
    lookups = {name for node in nodes for name in _names(node, keys.lookup(""))}
    for queue in queues:
        queue_keys = QueueKeys(queue)
        node = next(node for node in nodes if _serves(node, queue))
        indexes = {state: read_ids(node, queue_keys, state) for state in STATES}
        listed: dict[str, list[str]] = {}
        for state, ids in indexes.items():
            for task_id in ids:
                listed.setdefault(task_id, []).append(state.value)
        names = set(_names(node, queue_keys.task_prefix))
        found.dangling_ids += [f"{queue}/{task_id}" for task_id in listed.keys() - names]
        found.locks += list(_names(node, queue_keys.lock_prefix))
        for task_id, fields in _read_hashes(node, queue_keys, sorted(names)):
            found.tasks[task_id] = _stored(task_id, queue, fields, tuple(listed.get(task_id, ())), lookups)
        found.counts[queue] = QueueCounts(
            sizes={state.value: len(ids) for state, ids in indexes.items()},
            reported=reported.get(queue, {}),
            processed=int(node.get(queue_keys.processed) or 0),
            failed=int(node.get(queue_keys.failed) or 0),
        )
    found.orphan_lookups = len(lookups - found.tasks.keys())
    return found


def count_orphan_lookups(queues: Iterable[str], nodes: Sequence[redis_py.Redis]) -> int:
    tasks = {name for node in nodes for queue in queues for name in _names(node, QueueKeys(queue).task_prefix)}
    return len({name for node in nodes for name in _names(node, keys.lookup(""))} - tasks)


def _stored(
    task_id: str, queue: str, fields: dict[bytes, bytes], indexes: tuple[str, ...], lookups: set[str]
) -> StoredTask:
    payload, result = json.loads(decode(fields[b"msg"]).payload or b"{}"), json.loads(fields.get(b"result") or b"null")
    return StoredTask(
        task_id=task_id,
        queue=queue,
        state=fields[b"state"].decode(),
        number=str(payload.get("number", "")),
        result_run=result["run"] if isinstance(result, dict) else "",
        indexes=indexes,
        has_owner=b"owner" in fields,
        has_lookup=task_id in lookups,
    )


def _read_hashes(
    node: redis_py.Redis, queue_keys: QueueKeys, ids: Sequence[str]
) -> Iterator[tuple[str, dict[bytes, bytes]]]:
    for start in range(0, len(ids), _BATCH):
        part = ids[start : start + _BATCH]
        with node.pipeline(transaction=False) as pipeline:
            for task_id in part:
                pipeline.hgetall(queue_keys.task(task_id))
            yield from zip(part, pipeline.execute(), strict=True)


def read_ids(node: redis_py.Redis, queue_keys: QueueKeys, state: TaskState) -> list[str]:
    key = queue_keys.index(state)
    found: Sequence[Any] = node.lrange(key, 0, -1) if state in LISTS else node.zrange(key, 0, -1)
    return [task_id.decode() for task_id in found]


def _count_unended(node: redis_py.Redis, queue_keys: QueueKeys) -> int:
    """Count in one transaction, so that a task that moves from one state to another is not missed in both."""
    with node.pipeline(transaction=True) as pipeline:
        for state in UNENDED:
            count = pipeline.llen if state in LISTS else pipeline.zcard
            count(queue_keys.index(state))
        return sum(pipeline.execute())


def _names(node: redis_py.Redis, prefix: str) -> Iterator[str]:
    """Yield what follows a prefix in the keys of a node, each once."""
    pattern = prefix.replace("[", r"\[") + "*"
    yield from {key.decode().removeprefix(prefix) for key in node.scan_iter(pattern, count=10_000)}


def _serves(node: redis_py.Redis, queue: str) -> bool:
    """Return whether a node of a cluster serves a queue. A single server serves all."""
    with contextlib.suppress(redis_py.exceptions.MovedError, redis_py.exceptions.AskError):
        node.exists(QueueKeys(queue).pending)
        return True
    return False


def reported_sizes(queues: list[dict[str, object]]) -> dict[str, dict[str, int]]:
    """Return the sizes that `GET /api/cli/queues` reports, by queue and state."""
    states = [state.value for state in STATES]
    return {str(queue["queue"]): {state: int(str(queue[state])) for state in states} for queue in queues}


def count_500(statuses: Counter[str]) -> int:
    """Return the number of 500 responses. Each is a bug, whatever is unavailable."""
    return sum(count for status, count in statuses.items() if status.startswith("500"))
