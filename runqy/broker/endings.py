"""Hears of tasks that end."""

from collections.abc import Callable

from runqy.broker.broker import Broker
from runqy.broker.keys import ended_channel
from runqy.broker.waking import Listener

_PREFIX = ended_channel("")


class EndListener:
    """Calls back with the ids of tasks that end, of those that somebody watches. Usable from any thread."""

    def __init__(self, broker: Broker, on_end: Callable[[str], None], on_gap: Callable[[], None]) -> None:
        """Take what to call for a task, and what to call when some ends may have been missed. Neither may block."""
        self._listener = Listener(broker, lambda channel, _: on_end(channel.removeprefix(_PREFIX)), on_gap)

    def start(self) -> "EndListener":
        """Begin to listen."""
        self._listener.start()
        return self

    def close(self) -> None:
        """End the thread and the connection."""
        self._listener.close()

    def watch(self, task_id: str) -> None:
        """Listen for the end of a task until `unwatch`; returns once Redis confirmed it, or after a second without."""
        self._listener.subscribe([ended_channel(task_id)])

    def unwatch(self, task_id: str) -> None:
        """Undo one `watch`."""
        self._listener.unsubscribe([ended_channel(task_id)])
