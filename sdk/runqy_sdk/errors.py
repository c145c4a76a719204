"""What a handler raises to say how its task ends, and the classes of errors that no handler raised.

The latter are never raised: the `error_class` of an attempt names one, and Django's tasks resolve it.
"""

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


class ResultInvalid(Exception):
    """A result or chunk cannot be encoded as JSON, or is not what it has to be. The text names the value."""


class Timeout(Exception):
    """The task's timeout ended the run."""


class DeadlineExceeded(Timeout):
    """The task's deadline ended the run."""


class WorkerLost(Exception):
    """The worker stopped extending the lease of the task."""


class ProcessDied(Exception):
    """The process ended while it ran the task, or had to be ended because it broke the protocol."""


class ProcessKilled(ProcessDied):
    """A signal ended the process: SIGKILL usually because memory ran out."""


class ProcessExited(ProcessDied):
    """The process exited by itself."""


class ResultTooLarge(Exception):
    """The result, or what the task streamed, is larger than a response, its queue or Redis has room for."""


class ResponseInvalid(Exception):
    """The process responded for a task that it does not have, or left one of its batch out."""


class StreamIncomplete(Exception):
    """The task returned no result, and parts of what it streamed are lost."""


class PayloadUnusable(Exception):
    """The payload is not JSON, or the stored task is damaged."""


MAX_DELAY_S = 366 * 24 * 3600
