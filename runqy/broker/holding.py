"""Owns what a worker has in hand: which task, and the token that proves it."""

from dataclasses import dataclass

from runqy.broker.asynq_pb2 import TaskMessage


@dataclass(frozen=True, slots=True)
class Hold:
    """A task in the hands of one taker."""

    queue: str
    """The Redis queue."""
    task_id: str
    owner: str
    """Token of the take; every later verb proves with it that the task is still ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
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
