"""What a handler raises to say how its task ends."""

from __future__ import annotations


class Retry(Exception):
    """Fail this attempt and retry the task, as often as its `max_retry` allows.

    `raise Retry("busy") from error` shows the class and the traceback of `error` as those of the attempt.
    `delay` is in seconds; without it the queue's delays apply, which double with each attempt.
    """

    def __init__(self, reason: str = "the task asked for a retry", *, delay: float | None = None) -> None:
        super().__init__(reason)
        if delay is not None and not 0 <= delay <= MAX_DELAY_S:
            raise ValueError(f"delay: {delay!r} is not between 0 and {MAX_DELAY_S} seconds")
        # A float, since numpy's numbers and Decimals are not JSON.
        self.delay = None if delay is None else float(delay)


class Fail(Exception):
    """Fail the task permanently. Its error is the reason alone, unless it is raised from another exception."""


class TaskCancelled(Exception):
    """The task was cancelled or timed out. `Context.check` raises it."""


class PayloadInvalid(Exception):
    """The payload does not fit the annotation of the handler's parameter. The text names the field."""


MAX_DELAY_S = 366 * 24 * 3600
