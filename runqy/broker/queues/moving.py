"""Move tasks to another Redis queue, in bounded steps of which each may be the last before a crash.

In a cluster the two queues are in different slots, so a move takes several scripts. A slice of tasks is claimed: taken
out of its index, so that no worker gets it, and recorded under a token. Each task is then stored in the destination,
its index entry changed, and its original deleted. Any process repeats these steps for claims that it finds; the token
keeps a task from being stored twice. Running tasks are not moved: they finish where they are.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from runqy.broker import keys as redis_keys
from runqy.broker.broker import Broker
from runqy.broker.constants import BATCH_MAX_BYTES, BATCH_MAX_TASKS
from runqy.broker.keys import QueueKeys
from runqy.broker.message import MessageUnreadable, decode, encode
from runqy.broker.operation import Operation, Request, ask, ask_all, get_context, raise_error
from runqy.broker.queues.move_claims import (
    LISTED_STATES,
    MoveClaim,
    read_claims,
    record_failure,
    record_refused,
    release_invalid,
)
from runqy.broker.replies import Reply
from runqy.broker.scripts import command, script
from runqy.broker.states import TaskState
from runqy.broker.tasks.memory import ensure_memory
from runqy.errors import BrokerCommandRefused, RunqyError

STEP_TIMEOUT_S = 600
"""How long after reading a task it may be stored; a process may be stopped in between."""
CLAIM_TTL_S = 30 * 24 * 3600
"""How long a claim that a crash interrupted is certain not to be stored twice."""
_FINISHED_TTL_S = 6 * STEP_TIMEOUT_S
_DROPPED_FIELDS = (b"moving", b"place")

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class _ClaimedTask:
    """A claimed task as it was read."""

    claim: MoveClaim
    ttl_ms: int
    lock_ttl_ms: str
    fields: dict[bytes, bytes]
    output_ttl_ms: int
    output: list[bytes]
    """Fields and values of what it printed."""

    @property
    def group(self) -> bytes:
        return self.fields.get(b"group", b"")

    def index(self, keys: QueueKeys) -> bytes:
        """Return the index of its state in a queue."""
        if self.claim.state is TaskState.AGGREGATING:
            return keys.group("").encode() + self.group
        return keys.index(self.claim.state).encode()


def move_tasks(broker: Broker, source: str, destination: str, *, limit: int) -> int:
    """Move about `limit` tasks of a Redis queue, and finish earlier claims; return how many were moved.

    Raise BrokerUnavailable, BrokerFull.
    """
    moved = finish_claims(broker, source)
    token = secrets.token_hex(8)
    for state, index in _indexes(broker, source):
        while moved < limit:
            broker.run(_ensure_memory(destination))
            if not broker.run(_claim(source, state, index, token=token, destination=destination)):
                break
            stored = finish_claims(broker, source)
            if not stored:
                break  # other tasks have their ids
            moved += stored
            token = secrets.token_hex(8)
    return moved


def finish_claims(broker: Broker, source: str) -> int:
    """Store the claimed tasks of a Redis queue in their destinations; return how many. Raise BrokerUnavailable."""
    claims = broker.run(read_claims(source))
    if claims.invalid:
        broker.run(release_invalid(source, claims.invalid))
    return sum(broker.run(_finish(source, chunk)) for chunk in claims.chunks())


def _indexes(broker: Broker, source: str) -> Iterator[tuple[TaskState, bytes]]:
    """Yield the indexes of a Redis queue whose tasks can be moved."""
    keys = QueueKeys(source)
    members = command("SMEMBERS", keys.groups, key=keys.groups)
    groups = broker.run(Request((members,), lambda replies: sorted(replies[0] or ()), tolerates_wrong_types=True))
    for group in groups:
        yield TaskState.AGGREGATING, keys.group("").encode() + group
    for state in LISTED_STATES:
        yield state, keys.index(state).encode()


def _ensure_memory(destination: str) -> Operation[None]:
    context = yield from get_context()
    yield from ensure_memory(destination, memory=context.memory)


def _claim(source: str, state: TaskState, index: bytes, *, token: str, destination: str) -> Request[int]:
    """Claim tasks of an index, last those that were refused before; return how many ids left it.

    An index of the wrong type has none.
    """
    keys = QueueKeys(source)
    call = script("claim_for_move")(
        claims=keys.claims,
        index=index,
        offsets=keys.move_offsets,
        state=state,
        task_prefix=keys.task_prefix,
        token=token,
        destination=destination,
        limit=BATCH_MAX_TASKS,
        max_bytes=BATCH_MAX_BYTES,
    )
    return Request((call,), lambda replies: int(replies[0] or 0), tolerates_wrong_types=True)


def _finish(source: str, claims: Sequence[MoveClaim]) -> Operation[int]:
    """Store claimed tasks, change their index entries, delete the originals; return how many were stored.

    A task that Redis refuses to read or to store stays claimed, and is logged; the others are moved.
    """
    context = yield from get_context()
    names = sorted({claim.destination for claim in claims})
    listed = command("SADD", redis_keys.QUEUES, *names, key=redis_keys.QUEUES)
    yield from ask(Request((listed,), lambda _: None))
    found = yield from ask_all([_read(source, claim) for claim in claims])
    read = [task for task in _without_refused(source, claims, found) if not isinstance(task, RunqyError)]
    tasks = [task for task in read if task.fields]
    outcomes = yield from ask_all([_store(source, task, now_ns=context.now_ns) for task in tasks])
    codes = list(_without_refused(source, [task.claim for task in tasks], outcomes))
    stored = [task.claim for task, code in zip(tasks, codes, strict=True) if code in (1, 2)]
    refused = [task for task, code in zip(tasks, codes, strict=True) if code == 0]
    lookups = yield from ask_all([_move_lookup(source, claim) for claim in stored])
    done = [claim for claim, outcome in zip(stored, lookups, strict=True) if not _is_unavailable(outcome)]
    gone = [task.claim for task in read if not task.fields]
    ends = yield from _end(source, claims, [*done, *gone], refused)
    for outcome in (*found, *codes, *lookups, *ends):
        if _is_unavailable(outcome):
            raise_error(outcome)
    return len(done)


def _end(
    source: str, claims: Sequence[MoveClaim], moved: Sequence[MoveClaim], refused: Sequence[_ClaimedTask]
) -> Operation[list[int | RunqyError]]:
    """Delete the originals of moved tasks, put the refused ones back, and return the outcomes.

    What is stored under a token expires once none of its claims is left: `claims` are all of its tokens.
    """
    requests = [*(_delete(source, claim) for claim in moved), *(_return(source, task) for task in refused)]
    outcomes = yield from ask_all(requests)
    ending = [*moved, *(task.claim for task in refused)]
    ended = {claim for claim, end in zip(ending, outcomes, strict=True) if not isinstance(end, RunqyError)}
    unfinished = {claim.token for claim in claims if claim not in ended}
    expiring = {(claim.destination, claim.token) for claim in ended if claim.token not in unfinished}
    yield from ask_all([_expire_moved(*key) for key in sorted(expiring)])
    if refused:
        record_refused(source, [task.claim.task_id for task in refused])
    return outcomes


def _without_refused(
    source: str, claims: Sequence[MoveClaim], outcomes: Iterable[T | RunqyError]
) -> Iterator[T | RunqyError]:
    """Log the commands that Redis refused, because another program wrote a key of another type."""
    for claim, outcome in zip(claims, outcomes, strict=True):
        if isinstance(outcome, BrokerCommandRefused):
            record_failure(source, claim.task_id, outcome.detail)
        yield outcome


def _is_unavailable(outcome: object) -> bool:
    """Return whether a later attempt may succeed, which is not so for a command that Redis refused."""
    return isinstance(outcome, RunqyError) and not isinstance(outcome, BrokerCommandRefused)


def _task_key(queue: str, task_id: bytes) -> bytes:
    return QueueKeys(queue).task_prefix.encode() + task_id


def _output_key(queue: str, task_id: bytes) -> bytes:
    return QueueKeys(queue).output("").encode() + task_id


def _read(source: str, claim: MoveClaim) -> Request[_ClaimedTask]:
    keys = QueueKeys(source)
    call = script("read_claimed")(
        claims=keys.claims,
        task=_task_key(source, claim.task_id),
        output=_output_key(source, claim.task_id),
        id=claim.task_id,
        token=claim.token,
        lock_prefix=keys.lock_prefix,
    )

    def parse(replies: Sequence[Reply]) -> _ClaimedTask:
        ttl_ms, lock_ttl, flat, output_ttl_ms, output = replies[0]
        fields = dict(zip(flat[::2], flat[1::2], strict=True))
        text = lock_ttl.decode() if isinstance(lock_ttl, bytes) else str(lock_ttl)
        return _ClaimedTask(
            claim=claim, ttl_ms=ttl_ms, lock_ttl_ms=text, fields=fields, output_ttl_ms=output_ttl_ms, output=output
        )

    return Request((call,), parse, is_repeatable=True, is_bulky=True)


def _store(source: str, task: _ClaimedTask, *, now_ns: int) -> Request[int]:
    """Store a task in its destination: 1 stored, 2 stored before, 0 another task has its id, -1 too late."""
    claim, keys = task.claim, QueueKeys(task.claim.destination)
    key, fields = _task_key(claim.destination, claim.task_id), _rewrite(task.fields, source, claim.destination)
    lock = fields.get(b"unique_key", b"")
    is_locked = lock.startswith(keys.lock_prefix.encode())
    stored = [part for pair in fields.items() if pair[0] not in _DROPPED_FIELDS for part in pair]
    call = script("store_moved")(
        moved=keys.moved(claim.token),
        refused=keys.refused(claim.token),
        task=key,
        output=_output_key(claim.destination, claim.task_id),
        index=task.index(keys),
        groups=keys.groups,
        lock=lock if is_locked else key,
        idle=keys.idle,
        id=claim.task_id,
        state=claim.state,
        score=claim.score,
        group=task.group,
        queue=claim.destination,
        now_ms=now_ns // 1_000_000,
        until_s=now_ns // 1_000_000_000 + STEP_TIMEOUT_S,
        keep_moved_s=CLAIM_TTL_S,
        ttl_ms=task.ttl_ms,
        lock_ttl_ms=task.lock_ttl_ms if is_locked else "",
        output_ttl_ms=task.output_ttl_ms,
        field_count=len(stored),
        rest=[*stored, *(task.output if b"output" in fields else ())],
    )
    return Request((call,), lambda replies: int(replies[0]), is_repeatable=True, is_bulky=True)


def _rewrite(fields: dict[bytes, bytes], source: str, destination: str) -> dict[bytes, bytes]:
    """Return the fields of a task with the names and locks of its new queue. A damaged message is kept."""
    changed = dict(fields)
    if b"unique_key" in fields:
        changed[b"unique_key"] = _rename_lock(fields[b"unique_key"], source, destination)
    try:
        message = decode(fields.get(b"msg", b""))
    except MessageUnreadable:
        return changed
    message.queue = destination
    if message.type == source:
        message.type = destination
    if message.unique_key:
        message.unique_key = _rename_lock(message.unique_key.encode(), source, destination).decode()
    changed[b"msg"] = encode(message)
    return changed


def _rename_lock(lock: bytes, source: str, destination: str) -> bytes:
    """Return the name of a lock in another queue; it contains the task's type, which is often the queue's name."""
    before, after = (QueueKeys(queue).lock_prefix.encode() for queue in (source, destination))
    if not lock.startswith(before):
        return lock
    rest, task_type = lock.removeprefix(before), f"{source}:".encode()
    return after + (f"{destination}:".encode() + rest.removeprefix(task_type) if rest.startswith(task_type) else rest)


def _move_lookup(source: str, claim: MoveClaim) -> Request[int]:
    try:
        lookup = redis_keys.lookup(claim.task_id.decode())
    except UnicodeDecodeError:  # runqy indexes no such id
        return Request((), lambda _: 0)
    call = script("move_lookup")(lookup=lookup, source=source, destination=claim.destination)
    return Request((call,), lambda replies: int(replies[0]), is_repeatable=True)


def _delete(source: str, claim: MoveClaim) -> Request[int]:
    keys = QueueKeys(source)
    call = script("delete_moved")(
        claims=keys.claims,
        task=_task_key(source, claim.task_id),
        id=claim.task_id,
        token=claim.token,
        lock_prefix=keys.lock_prefix,
    )
    return Request((call,), lambda replies: int(replies[0]), is_repeatable=True)


def _return(source: str, task: _ClaimedTask) -> Request[int]:
    keys, claim = QueueKeys(source), task.claim
    call = script("return_claimed")(
        claims=keys.claims,
        task=_task_key(source, claim.task_id),
        index=task.index(keys),
        offsets=keys.move_offsets,
        id=claim.task_id,
        token=claim.token,
        state=claim.state,
        score=claim.score,
    )
    return Request((call,), lambda replies: int(replies[0]), is_repeatable=True)


def _expire_moved(destination: str, token: str) -> Request[None]:
    keys = QueueKeys(destination)
    ended = (keys.moved(token), keys.refused(token))
    return Request(tuple(command("EXPIRE", key, _FINISHED_TTL_S, key=key) for key in ended), lambda _: None)
