"""Delete uniqueness locks of tasks that Go's runqy-worker deleted: it leaves the locks.

They block nothing, as the next task takes them over, but those without an expiry would stay for good.
"""

from __future__ import annotations

import re

from runqy.broker.broker import Broker
from runqy.broker.duties.orphans import has_go_workers
from runqy.broker.keys import QueueKeys
from runqy.broker.request import Request
from runqy.broker.scanning import KeyScanner, run_requests
from runqy.broker.scripts import script

_LOCK_KEY = re.compile(r"asynq:\{([^{}]+)\}:unique:.*", re.DOTALL)


def delete_stray_lock(queue: str, lock: str) -> Request[bool]:
    """Delete a lock of a queue if it has no expiry and its task is gone; return whether it was deleted."""
    call = script("delete_stray_lock")(lock=lock, task_prefix=QueueKeys.of(queue).task_prefix)
    return Request((call,), lambda replies: replies[0] == 1)


class StrayLockSearch:
    """Scans all locks in bounded steps while Go workers are registered, and for an hour after the last one vanished."""

    def __init__(self, step: int = 1000) -> None:
        self._scanner = KeyScanner(f"{QueueKeys.of('*').lock_prefix}*", step, "string")

    @property
    def is_round_complete(self) -> bool:
        return self._scanner.is_at_start

    async def run_step(self, broker: Broker) -> int:
        """Check the locks of the next step; return how many were deleted."""
        if not await broker.send(has_go_workers()):
            return 0
        matches = [match for key in await self._scanner.next_keys(broker) if (match := _LOCK_KEY.fullmatch(key))]
        outcomes = await run_requests(broker, {match[0]: delete_stray_lock(match[1], match[0]) for match in matches})
        return sum(outcomes.values())
