"""Large requests to a server: one is sent at a time, and while it has one it may be silent for longer."""

from collections.abc import Iterator
from contextlib import contextmanager

from runqy.broker.constants import LARGE_BYTES_PER_S
from runqy.concurrency.bulkhead import Bulkhead, BulkheadFull
from runqy.errors import BrokerBusy


class LargeTraffic:
    """The bytes of large requests to which a server has not replied, on all connections of a process."""

    def __init__(self) -> None:
        self.unanswered_bytes = 0

    @property
    def extra_s(self) -> float:
        """How much longer than otherwise the server may be silent, on any connection: it runs one command at a time."""
        return self.unanswered_bytes / LARGE_BYTES_PER_S


class BlockingTurns:
    """Lets one thread at a time send a large request to a server."""

    def __init__(self) -> None:
        self.traffic = LargeTraffic()
        self._bulkhead = Bulkhead(1)

    @contextmanager
    def take(self, size: int) -> Iterator[None]:
        """Wait for a turn, and use it until the block ends. Raise BrokerBusy if others take long; nothing was sent."""
        try:
            with self._bulkhead.enter():
                self.traffic.unanswered_bytes += size
                try:
                    yield
                finally:
                    self.traffic.unanswered_bytes -= size
        except BulkheadFull as error:
            raise BrokerBusy from error
