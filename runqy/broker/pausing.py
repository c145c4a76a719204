"""Stops queues from handing out tasks, and lets them go on."""

from runqy.broker.broker import Request
from runqy.broker.keys import QueueKeys
from runqy.broker.scripts import script


def pause(queue: str, *, now_ns: int) -> Request[bool]:
    """Pause a Redis queue: after the answer nothing is handed out. False: it was paused already."""
    call = script("pause")(paused=QueueKeys(queue).paused, now_s=now_ns // 1_000_000_000)
    return Request(commands=(call,), parse=lambda replies: bool(replies[0]))


def unpause(queue: str, *, now_ns: int) -> Request[bool]:
    """Let a Redis queue go on. False: it was not paused."""
    queue_keys = QueueKeys(queue)
    call = script("unpause")(
        paused=queue_keys.paused,
        pending=queue_keys.pending,
        idle=queue_keys.idle,
        queue=queue,
        now_ms=now_ns // 1_000_000,
    )
    return Request(commands=(call,), parse=lambda replies: bool(replies[0]))
