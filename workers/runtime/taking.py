"""What a worker asks of its queues, and what it makes of a task it was given."""

from dataclasses import dataclass, replace

from runqy.broker.consuming import Share, TakeOrder, plan_take
from runqy.broker.holding import Taken
from runqy.broker.timing import LEASE_S
from runqy.errors import PayloadUnusable
from workers.runtime.pool import DEADLINE_EXCEEDED
from workers.runtime.protocol import encode_task
from workers.runtime.settling import RetryPolicy

TAKES_A_TRIP = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a registration says about taking and finishing tasks."""

    worker_id: str
    shares: tuple[Share, ...]
    is_strict: bool
    policy: RetryPolicy
    lease_s: int = LEASE_S

    def order(self, free: int, *, wake_token: str) -> TakeOrder:
        """Ask for as many tasks as there are free slots, or as one trip carries."""
        order = plan_take(
            self.shares,
            min(free, TAKES_A_TRIP),
            worker_id=self.worker_id,
            is_strict=self.is_strict,
            wake_token=wake_token,
        )
        return replace(order, lease_s=self.lease_s, has_more_slots=free > TAKES_A_TRIP)


def line_of(taken: Taken, *, now_s: int) -> tuple[bytes, str]:
    """Return the line that hands a task to a child, or why there is none."""
    if not taken.is_readable:
        return b"", "message_unreadable: the stored message is damaged"
    if 0 < taken.message.deadline <= now_s:
        return b"", DEADLINE_EXCEEDED
    try:
        return encode_task(taken.message), ""
    except PayloadUnusable as error:
        return b"", f"payload_unusable: {error.detail}"
