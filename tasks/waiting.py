"""Lets readers wait for the end of a task: each costs a thread and a seat, and next to no time."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import structlog
from django.conf import settings

from runqy import clock
from runqy.broker.broker import Broker
from runqy.broker.endings import EndListener
from runqy.broker.reading import read_states
from runqy.broker.records import TaskRecord
from runqy.connection import get_broker
from runqy.errors import RunqyError, TooManyWaiters

log = structlog.get_logger(__name__)

POLL_S = 1.0
"""How often all waited-for tasks are looked at together, for workers that do not publish an end."""


@dataclass(eq=False, slots=True)
class Seat:
    """One reader that waits."""

    task_id: str
    place: tuple[str, str] | None = None
    """Redis queue and id of the task, once it was read."""
    called: threading.Event = field(default_factory=threading.Event)


class WaitingRoom:
    """The readers of a process that wait for tasks to end."""

    def __init__(self, broker: Broker, seats: int) -> None:
        """Take the broker and how many readers may wait at once."""
        self._broker = broker
        self._most = seats
        self._changed = threading.Condition()
        self._seats: set[Seat] = set()
        self._closing = threading.Event()
        self._listener: EndListener | None = None

    def wait_for_end(self, task_id: str, read: Callable[[], TaskRecord], *, longest_s: float) -> TaskRecord:
        """Return a task as `read` finds it once it is over, when time is up, or when the room closes.

        Raises TooManyWaiters, and whatever `read` raises.
        """
        until = clock.monotonic_s() + longest_s
        with self._seat(task_id) as seat:
            record = read()
            seat.place = (record.queue, task_id)
            while not record.state.is_final and not self._closing.is_set():
                was_called = seat.called.wait(until - clock.monotonic_s())
                seat.called.clear()
                record = read()
                if not was_called:
                    break
            return record

    def close(self) -> None:
        """Send all readers away with what is known by now, because the process stops; nobody waits any more."""
        self._closing.set()
        self._call_all()

    @contextmanager
    def _seat(self, task_id: str) -> Iterator[Seat]:
        """Take a seat, its channel subscribed, so that what ends after the first look is heard of."""
        seat = Seat(task_id)
        with self._changed:
            if len(self._seats) >= self._most:
                raise TooManyWaiters
            self._seats.add(seat)
            listener = None if self._closing.is_set() else self._listener or self._open()
        try:
            if listener is not None:
                listener.watch(task_id)
            yield seat
        finally:
            if listener is not None:
                listener.unwatch(task_id)
            with self._changed:
                self._seats.discard(seat)
                self._changed.notify_all()

    def _open(self) -> EndListener:
        """Start to listen and to look, when the first reader comes."""
        self._listener = EndListener(self._broker, self._call, self._call_all).start()
        threading.Thread(target=self._run, args=[self._listener], name="runqy-waiting-room", daemon=True).start()
        return self._listener

    def _run(self, listener: EndListener) -> None:
        """Look at all waited-for tasks again and again until the room closes; then see the last reader out."""
        while not self._closing.wait(POLL_S):
            self._look()
        with self._changed:
            self._changed.wait_for(lambda: not self._seats)
        listener.close()

    def _call(self, task_id: str) -> None:
        """Wake the readers of one task. On the listener's thread, which must not block."""
        for seat in tuple(self._seats):
            if seat.task_id == task_id:
                seat.called.set()

    def _call_all(self) -> None:
        """Wake everybody: ends may have been published while nobody listened."""
        for seat in tuple(self._seats):
            seat.called.set()

    def _look(self) -> None:
        """Look at all waited-for tasks in one round trip, and wake the readers of those that are over."""
        waiting = [(seat, seat.place) for seat in tuple(self._seats) if seat.place is not None]
        if not waiting:
            return
        try:
            states = self._broker.run(read_states([place for _, place in waiting]))
        except RunqyError as error:  # whatever Redis refuses, the next look may see again
            log.warning(error.code, loop="waiting_room", error=error.detail)
            return
        for (seat, _), state in zip(waiting, states, strict=True):
            if state is None or state.is_final:
                seat.called.set()


_lock = threading.Lock()
_room: WaitingRoom | None = None


def get_waiting_room() -> WaitingRoom:
    """Return the process's waiting room."""
    global _room  # noqa: PLW0603 (a process has one)
    with _lock:
        if _room is None:
            _room = WaitingRoom(get_broker(), settings.RUNQY_MAX_WAITERS)
        return _room


def close_waiting_room() -> None:
    """Send the process's waiting readers away, because it stops. Takes no lock: a signal's handler may call it."""
    if _room is not None:
        _room.close()
