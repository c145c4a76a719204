"""Wake a duty that has found nothing to do for a while, because a row was written that it handles.

A wake-up is a hint. One that is lost costs a few seconds: each duty looks by itself (`loops.IDLE_INTERVAL_S`).
"""

from collections.abc import Callable
from functools import partial

from django.db import transaction

from runqy.broker.health import publish_wakeup
from runqy.errors import BrokerUnavailable
from runqy.redis_connection import get_broker

SEND_S = 0.5
"""How long a writer waits for Redis at most."""

_listener: Callable[[str], object] | None = None


def wake_duty(name: str) -> None:
    """Let a duty run when the open transaction is committed, or now, in whichever process runs duties."""
    transaction.on_commit(partial(send_wakeup, name))


def listen(listener: Callable[[str], object] | None) -> None:
    """Call a function with the names of duties that this process wakes, instead of telling other processes."""
    global _listener  # noqa: PLW0603 (a process runs duties once)
    _listener = listener


def send_wakeup(name: str) -> None:
    """Wake a duty now."""
    if _listener is not None:
        _listener(name)
        return
    try:
        get_broker(needs_clock=False).run(publish_wakeup(name), deadline_s=SEND_S)
    except BrokerUnavailable:
        return
