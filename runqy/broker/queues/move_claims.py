"""Read the claims of tasks that are being moved, and release those that cannot be read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from runqy.broker import keys as redis_keys
from runqy.broker import message as messages
from runqy.broker.asynq_pb2 import TaskMessage
from runqy.broker.constants import BATCH_MAX_TASKS
from runqy.broker.keys import QueueKeys
from runqy.broker.operation import Operation, Request, ask_all, get_context, raise_error
from runqy.broker.replies import Reply
from runqy.broker.scripts import command, script
from runqy.broker.states import TaskState
from runqy.errors import BrokerCommandRefused, RunqyError
from runqy.failure_log import FailureLog

LISTED_STATES = (
    *(TaskState.SCHEDULED, TaskState.RETRY, TaskState.PENDING),
    *(TaskState.COMPLETED, TaskState.ARCHIVED),
)
"""The states of tasks that can be moved, beside those that wait in a group."""

_INVALID = "the claim of its move to another queue was invalid; run it again unless it has run there"

_failures = FailureLog("claims_finished")
"""Of all claims. Its end is not recorded: one claim may be finished while another fails, each time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveClaim:
    """A task that was taken out of its index to be moved."""

    task_id: bytes
    """As it is in Redis: asynq's clients may create ids that are not UTF-8."""
    token: str
    state: TaskState
    score: str
    """Empty for a pending task."""
    position: int
    """Its place among all claims; claims of earlier releases have their place among those of their token."""
    destination: str


@dataclass(slots=True)
class Claims:
    """The claims of a Redis queue."""

    valid: list[MoveClaim] = field(default_factory=list)
    """In the order in which they were made."""
    invalid: list[tuple[bytes, bytes]] = field(default_factory=list)
    """Id and content of those that cannot be read."""

    def chunks(self) -> Iterator[Sequence[MoveClaim]]:
        """Yield the valid claims in chunks. The claims of a token are in one chunk."""
        chunk: list[MoveClaim] = []
        by_token: dict[str, list[MoveClaim]] = {}
        for claim in self.valid:
            by_token.setdefault(claim.token, []).append(claim)
        for claims in by_token.values():
            if chunk and len(chunk) + len(claims) > BATCH_MAX_TASKS:
                yield chunk
                chunk = []
            chunk = [*chunk, *claims]
        if chunk:
            yield chunk


def read_claims(source: str) -> Request[Claims]:
    """Return the claims of a Redis queue."""
    key = QueueKeys(source).claims

    def parse(replies: Sequence[Reply]) -> Claims:
        flat, claims = replies[0] or (), Claims()
        for task_id, content in flat.items() if isinstance(flat, dict) else zip(flat[::2], flat[1::2], strict=True):
            claim = _parse_claim(task_id, content)
            if claim is None:
                claims.invalid.append((task_id, content))
            else:
                claims.valid.append(claim)
        claims.valid.sort(key=lambda claim: (claim.position, claim.token))
        return claims

    return Request((command("HGETALL", key, key=key),), parse, tolerates_wrong_types=True)


def count_claims(sources: Sequence[str]) -> Request[dict[str, int]]:
    """Return how many tasks of each Redis queue are claimed; queues without are left out."""
    claims = [QueueKeys(source).claims for source in sources]
    return Request(
        tuple(command("HLEN", key, key=key) for key in claims),
        lambda replies: {source: int(count) for source, count in zip(sources, replies, strict=True) if count},
        tolerates_wrong_types=True,
    )


def release_invalid(source: str, invalid: Sequence[tuple[bytes, bytes]]) -> Operation[None]:
    """Delete claims that cannot be read, and archive their tasks: nobody knows whether a move has stored them.

    So no task is lost, none runs twice, and the move can end. Raise BrokerUnavailable.
    """
    now_ns = (yield from get_context()).now_ns
    outcomes = yield from ask_all([_release(source, *claim, now_ns=now_ns) for claim in invalid])
    for (task_id, _), outcome in zip(invalid, outcomes, strict=True):
        if isinstance(outcome, RunqyError) and not isinstance(outcome, BrokerCommandRefused):
            raise_error(outcome)
        record_failure(source, task_id, outcome.detail if isinstance(outcome, RunqyError) else "the claim is invalid")


def record_failure(source: str, task_id: bytes, error: str) -> None:
    text = as_text(task_id)
    _failures.record("task_not_moved", key=f"{source}:{text}", queue=source, task_id=text, error=error)


def record_refused(source: str, task_ids: Sequence[bytes]) -> None:
    """Log tasks whose ids exist in the other queue."""
    text = as_text(task_ids[0])
    _failures.record("task_not_moved", key=source, queue=source, count=len(task_ids), task_id=text, reason="id_exists")


def as_text(task_id: bytes) -> str:
    return task_id.decode("utf-8", "backslashreplace")


def _parse_claim(task_id: bytes, content: bytes) -> MoveClaim | None:
    try:
        token, name, score, position, destination = content.decode().split(" ", 4)
        state = TaskState(name)
        is_valid = score == "-" if state is TaskState.PENDING else not math.isnan(float(score))
        claim = MoveClaim(
            task_id=task_id,
            token=token,
            state=state,
            score="" if score == "-" else score,
            position=int(position),
            destination=destination,
        )
    except ValueError:
        return None
    is_movable = state in LISTED_STATES or state is TaskState.AGGREGATING
    return claim if is_valid and is_movable and token and destination else None


def _release(source: str, task_id: bytes, content: bytes, *, now_ns: int) -> Request[int]:
    """Return 1 if the claim was deleted, 2 if its task was put back too, 0 if the claim has changed."""
    keys, now_s = QueueKeys(source), now_ns // 1_000_000_000
    call = script("release_claim")(
        claims=keys.claims,
        task=keys.task_prefix.encode() + task_id,
        completed=keys.completed,
        archived=keys.archived,
        id=task_id,
        content=content,
        message_end=messages.encode(TaskMessage(error_msg=_INVALID, last_failed_at=now_s)),
        now_s=now_s,
        lock_prefix=keys.lock_prefix,
        ended_prefix=redis_keys.ended_channel(""),
    )
    return Request((call,), lambda replies: int(replies[0]))
