"""Stops queues from handing out tasks, and lets them go on."""

from collections.abc import Sequence
from dataclasses import dataclass

from runqy.broker.keys import QueueKeys
from runqy.broker.links import Reply
from runqy.broker.numbers import read_number
from runqy.broker.operation import Request
from runqy.broker.scripts import command, script


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Since when a queue hands out nothing, and because of whom."""

    since_s: int | None
    """None: asynq's key says something else than a time."""
    by: str
    """Empty: unknown, for asynq's tools do not tell."""


def pause(queue: str, *, now_ns: int, by: str = "") -> Request[bool]:
    """Pause a Redis queue: after the answer nothing is handed out. False: it was paused already, by whomever."""
    keys = QueueKeys(queue)
    call = script("pause")(paused=keys.paused, pause_note=keys.pause_note, now_s=now_ns // 1_000_000_000, by=by)
    return Request(commands=(call,), parse=lambda replies: bool(replies[0]))


def unpause(queue: str, *, now_ns: int) -> Request[bool]:
    """Let a Redis queue go on. False: it was not paused."""
    queue_keys = QueueKeys(queue)
    call = script("unpause")(
        paused=queue_keys.paused,
        pause_note=queue_keys.pause_note,
        pending=queue_keys.pending,
        idle=queue_keys.idle,
        queue=queue,
        now_ms=now_ns // 1_000_000,
    )
    return Request(commands=(call,), parse=lambda replies: bool(replies[0]))


def find_pause(queue: str) -> Request[Pause | None]:
    """Return what is known of a queue's pause; None: it is not paused."""
    keys = QueueKeys(queue)
    return Request(
        commands=(
            command("GET", keys.paused, key=keys.paused),
            command("HMGET", keys.pause_note, "since", "by", key=keys.pause_note),
        ),
        parse=_pause,
        tolerates_wrong_types=True,
    )


def _pause(replies: Sequence[Reply]) -> Pause | None:
    """Read a pause. What is noted about an earlier one, which asynq's tools ended, is none of it."""
    paused, noted = replies
    since, by = noted or (None, None)
    if paused is None:
        return None
    return Pause(
        since_s=read_number(paused),
        by=(by or b"").decode("utf-8", "replace") if since == paused else "",
    )
