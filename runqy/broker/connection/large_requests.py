"""Large requests to a server: one is sent at a time, and while it has one it may be silent for longer."""

from runqy.broker.constants import LARGE_BYTES_PER_S


class LargeTraffic:
    """The bytes of large requests to which a server has not replied, on all connections of a process."""

    def __init__(self) -> None:
        self.unanswered_bytes = 0

    @property
    def extra_s(self) -> float:
        """How much longer than otherwise the server may be silent, on any connection: it runs one command at a time."""
        return self.unanswered_bytes / LARGE_BYTES_PER_S
