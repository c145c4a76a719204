"""How many attempts at once a target gets, by how the last ones ended."""

from dataclasses import dataclass
from time import monotonic

FAILURES_MAX = 8
"""A receiver that refused so many in a row is taken for being away, not for refusing single messages."""
PROBE_EVERY_S = 5.0
_FORGET_AFTER_S = 600.0


@dataclass(slots=True)
class _Failures:
    count: int
    last_at: float


class CircuitBreaker:
    """Gives a target fewer attempts at once with each that fails; after several, one at a time, every few seconds,
    until one is accepted.

    While a receiver is away, its messages wait with most of their attempts left, and arrive as soon as it is back. In
    the memory of one process: others make their own attempts.
    """

    def __init__(self) -> None:
        self._failures: dict[str, _Failures] = {}

    def get_limit(self, target: str, limit: int) -> int:
        """Return how many attempts may be in flight now, of a target that may have so many while it accepts them."""
        failures = self._failures.get(target)
        if failures is None or failures.count < FAILURES_MAX:
            return max(limit >> (failures.count if failures else 0), 1)
        return int(monotonic() - failures.last_at >= PROBE_EVERY_S)

    def record(self, target: str, *, is_accepted: bool) -> bool:
        """Return whether a target that was taken for being away is back."""
        now = monotonic()
        if is_accepted:
            failed = self._failures.pop(target, None)
            return failed is not None and failed.count >= FAILURES_MAX
        failed = self._failures.get(target)
        self._failures[target] = _Failures(1 if failed is None else failed.count + 1, now)
        return False

    def forget_old(self) -> None:
        """Forget targets without an attempt for long: nothing is due to them, or they were deleted."""
        now = monotonic()
        self._failures = {
            target: failures for target, failures in self._failures.items() if now - failures.last_at < _FORGET_AFTER_S
        }
