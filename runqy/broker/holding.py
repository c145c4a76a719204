"""Owns what a worker has in hand: which task, and the token that proves it."""

import msgspec

from runqy.broker.asynq_pb2 import TaskMessage


class Hold(msgspec.Struct, frozen=True):
    """A task in the hands of one taker."""

    queue: str
    """The Redis queue."""
    task_id: str
    owner: str
    """Token of the take; every later verb proves with it that the task is still ours."""


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """A task that was handed out, to be run until its lease ends."""

    hold: Hold
    message: TaskMessage
    lease_end_s: int
    child_deaths: int = 0
    """How many children died while they ran it."""
    is_readable: bool = True
    """False: its message is damaged, and here holds id and queue only; or its id is no text. It must not be run."""

    @property
    def payload(self) -> bytes:
        """Return the bytes that the client sent."""
        return self.message.payload
