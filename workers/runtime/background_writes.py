"""Write to Redis what runs produce while they run: in the background, and the rest before their results."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from runqy.broker.async_broker import AsyncBroker
from runqy.broker.request import Request
from runqy.errors import BrokerUnavailable, RunqyError

RETRY_S = 2.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class PlannedWrite:
    """A request, and what records its outcome."""

    request: Request[Any]
    record: Callable[[Any], None]
    """Not called if the outcome is an error."""


def record_all(planned: Sequence[PlannedWrite], outcomes: Sequence[Any]) -> Sequence[Any]:
    """Record the outcomes of planned writes, which come first. Return the other outcomes."""
    for write, outcome in zip(planned, outcomes, strict=False):
        if not isinstance(outcome, RunqyError):
            write.record(outcome)
    return outcomes[len(planned) :]


class BackgroundWrites:
    """Makes writes while there are any: one round trip after the other, each some time after the first new data."""

    def __init__(
        self, get_broker: Callable[[], AsyncBroker], plan: Callable[[], Sequence[PlannedWrite]], *, interval_s: float
    ) -> None:
        """`plan` returns the next writes; empty if everything is written."""
        self._get_broker = get_broker
        self._plan = plan
        self._interval_s = interval_s
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None

    def schedule(self) -> None:
        """Write soon. Ignored if that is scheduled."""
        self._schedule(self._interval_s)

    async def close(self) -> None:
        if self._timer:
            self._timer.cancel()
        if self._writing:
            self._writing.cancel()
            await asyncio.wait([self._writing])

    def _schedule(self, delay_s: float) -> None:
        if self._timer is None and self._writing is None:
            self._timer = self._loop.call_later(delay_s, self._start)

    def _start(self) -> None:
        self._timer = None
        if planned := self._plan():
            self._writing = self._loop.create_task(self._write(planned))
            self._writing.add_done_callback(self._finish)

    def _finish(self, writing: "asyncio.Task[None]") -> None:
        self._writing = None
        if writing.cancelled():
            return
        error = writing.exception()
        if error is not None and not isinstance(error, BrokerUnavailable):  # the consumer logs it
            log.error("output_failed", exc_info=error)
        self._schedule(RETRY_S if error else self._interval_s)

    async def _write(self, planned: Sequence[PlannedWrite]) -> None:
        """Make writes in one round trip. Raise RunqyError."""
        outcomes = await self._get_broker().send_all([write.request for write in planned])
        record_all(planned, outcomes)
        for outcome in outcomes:
            if isinstance(outcome, RunqyError):
                raise outcome
