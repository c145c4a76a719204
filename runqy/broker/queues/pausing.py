"""Pause and resume queues."""

from collections.abc import Sequence
from dataclasses import dataclass

from runqy.broker.keys import QueueKeys
from runqy.broker.replies import Reply, read_number
from runqy.broker.request import Request
from runqy.broker.scripts import command, script


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """When and by whom a queue was paused."""

    since_s: int | None
    """None: the key does not hold a time."""
    by: str
    """Empty if asynq's tools paused it, which do not record it."""


def pause(queue: str, *, now_ns: int, by: str = "") -> Request[bool]:
    """Pause a Redis queue; no task is dequeued after the reply. Return False if it was already paused."""
    keys = QueueKeys.of(queue)
    call = script("pause")(paused=keys.paused, pause_details=keys.pause_details, now_s=now_ns // 1_000_000_000, by=by)
    return Request(commands=(call,), parse=lambda replies: bool(replies[0]))


def unpause(queue: str, *, now_ns: int) -> Request[bool]:
    """Resume a Redis queue, and wake workers for its pending tasks. Return False if it was not paused."""
    queue_keys = QueueKeys.of(queue)
    call = script("unpause")(
        paused=queue_keys.paused,
        pause_details=queue_keys.pause_details,
        pending=queue_keys.pending,
        idle=queue_keys.idle,
        queue=queue,
        now_ms=now_ns // 1_000_000,
    )
    return Request(commands=(call,), parse=lambda replies: bool(replies[0]))


def find_pause(queue: str) -> Request[Pause | None]:
    keys = QueueKeys.of(queue)
    return Request(
        commands=(
            command("GET", keys.paused, key=keys.paused),
            command("HMGET", keys.pause_details, "since", "by", key=keys.pause_details),
        ),
        parse=_parse_pause,
        tolerates_wrong_types=True,
    )


def _parse_pause(replies: Sequence[Reply]) -> Pause | None:
    paused, details = replies
    since, by = details or (None, None)
    if paused is None:
        return None
    # Details of an earlier pause may be left, if asynq's tools ended it: they do not know that key.
    return Pause(
        since_s=read_number(paused),
        by=(by or b"").decode("utf-8", "replace") if since == paused else "",
    )
