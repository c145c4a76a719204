"""Notices that Redis has been silent for so long that the server is to be asked whether it has moved."""

from runqy import clock
from workers.runtime.backoff import delay_s

MOST_DELAY_S = 300.0


class Silence:
    """How long Redis has not answered."""

    def __init__(self) -> None:
        self._ask_at_s: float | None = None
        self._asked = 0

    def end(self) -> None:
        """Note an answer, whatever it says."""
        self._ask_at_s, self._asked = None, 0

    def is_to_be_asked_about(self, patience_s: float) -> bool:
        """Note that no answer came; returns whether it is time to ask the server, which is ever less often."""
        now_s = clock.monotonic_s()
        if self._ask_at_s is None:
            self._ask_at_s = now_s + patience_s
        if now_s < self._ask_at_s:
            return False
        self._asked += 1
        self._ask_at_s = now_s + delay_s(self._asked, first_s=patience_s, most_s=max(patience_s, MOST_DELAY_S))
        return True
