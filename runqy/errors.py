"""Owns what can go wrong: every error a user may see, with its stable code and HTTP status."""


class RunqyError(Exception):
    """Something went wrong."""

    code = "error"
    status = 500

    def __init__(self, detail: str | None = None) -> None:
        """Take a message for this occurrence; without one the class's docstring is the message."""
        super().__init__(detail or (type(self).__doc__ or "").strip())

    @property
    def detail(self) -> str:
        """Return the message of this occurrence."""
        return str(self.args[0])


class BrokerUnavailable(RunqyError):
    """Redis cannot be reached."""

    code, status = "broker_unavailable", 503


class BrokerFull(BrokerUnavailable):
    """Redis has reached its memory limit and takes no new tasks."""

    code = "broker_full"


class BrokerRefused(BrokerUnavailable):
    """Redis refuses these credentials."""

    code = "broker_refused"


class TaskAlreadyExists(RunqyError):
    """A task with this id exists already."""

    code, status = "task_exists", 409


class TaskNotFound(RunqyError):
    """No such task."""

    code, status = "task_not_found", 404


class LeaseLost(RunqyError):
    """The task is no longer held by this worker."""

    code, status = "lease_lost", 409


class QueueNotFound(RunqyError):
    """No such queue."""

    code, status = "queue_not_found", 404
