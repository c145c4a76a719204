"""The pool of a long_running queue: warm children that are fed task after task."""

import asyncio
from collections import deque

from workers.runtime.child import ChildSpec
from workers.runtime.pool import DYING_S, PoolOwner, PoolSettings
from workers.runtime.restarts import Restarts
from workers.runtime.runs import Ending, Fate, Run
from workers.runtime.seat import Seat

QUICK_S = 0.02
"""Below this mean time of a task a child is told of several ahead: then the pipe's own round trip would count.

Of slower tasks a child is told one at a time, so that none is stuck behind another while a second child is free, and
so that those not started can be cancelled or given back.
"""


class LongRunningPool:
    """Seats, and the tasks that wait for one."""

    def __init__(self, owner: PoolOwner, settings: PoolSettings) -> None:
        self._owner = owner
        self._settings = settings
        self._seats = [
            Seat(self, Restarts(settings.recovery, settings.on_failure))
            for _ in range(min(settings.processes, settings.concurrency))
        ]
        self._waiting: deque[Run] = deque()
        self._share = -(-settings.concurrency // len(self._seats))
        self._mean_s = 1.0
        self._emptied = asyncio.Event()

    @property
    def problem(self) -> str:
        """Say why no child is ready. See Pool."""
        return "" if self.is_ready else next((seat.problem for seat in self._seats if seat.problem), "")

    @property
    def is_ready(self) -> bool:
        """See Pool."""
        return any(seat.is_open for seat in self._seats)

    @property
    def capacity(self) -> int:
        """See Pool."""
        return min(self._settings.concurrency, self._share * sum(seat.is_open for seat in self._seats))

    @property
    def is_renewed(self) -> bool:
        """See Pool."""
        return all(seat.is_renewed for seat in self._seats)

    def start(self, spec: ChildSpec) -> None:
        """See Pool."""
        for seat in self._seats:
            seat.start(spec)

    def give(self, run: Run) -> None:
        """See Pool."""
        self._waiting.append(run)
        self._deal()
        self._return_if_closed()

    def end_run(self, run: Run, verdict: Ending) -> None:
        """See Pool."""
        if run in self._waiting:
            self._waiting.remove(run)
            self._owner.run_ended(run, verdict)
        for seat in self._seats:
            if run in seat.runs:
                seat.end_run(run, verdict)

    def check(self, now_s: float) -> None:
        """See Pool."""
        for seat in self._seats:
            seat.check(now_s)

    def return_unstarted(self) -> None:
        """See Pool."""
        while self._waiting:
            self._owner.run_ended(self._waiting.pop(), Ending(Fate.GIVEN_BACK))

    def is_started(self, run: Run) -> bool:
        """See Pool."""
        return any(run in seat.runs for seat in self._seats)

    async def stop(self) -> None:
        """See Pool."""
        self.return_unstarted()
        for seat in self._seats:
            seat.stop()
        self.seat_changed()
        async with asyncio.timeout(DYING_S + 10):
            await self._emptied.wait()

    def seat_ended_run(self, run: Run, ending: Ending, spent_s: float) -> None:
        """Pass on that a run is over, and remember how long runs take."""
        self._mean_s = (self._mean_s + spent_s) / 2
        self._owner.run_ended(run, ending)
        self._deal()

    def seat_started_run(self, run: Run) -> None:
        """Pass on that a run's time begins."""
        self._owner.run_started(run)

    def seat_changed(self) -> None:
        """Use a seat that opened, and pass the change on."""
        if all(seat.is_empty for seat in self._seats):
            self._emptied.set()
        else:
            self._emptied.clear()
        self._deal()
        self._return_if_closed()
        self._owner.pool_changed()

    def _return_if_closed(self) -> None:
        """Give tasks back rather than hold them until a child is ready again, which may take minutes."""
        if not self.is_ready:
            self.return_unstarted()

    def _deal(self) -> None:
        """Give waiting tasks to the seats that have the fewest."""
        depth = self._share if self._mean_s < QUICK_S else 1
        while self._waiting:
            seat = min((s for s in self._seats if s.is_open), key=lambda s: len(s.runs), default=None)
            if seat is None or len(seat.runs) >= depth:
                return
            seat.add(self._waiting.popleft())
