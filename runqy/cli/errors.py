"""The errors that end a command, and its exit statuses."""

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit statuses. USAGE is also Click's, for an invalid command line."""

    FAILED = 1
    USAGE = 2
    DENIED = 3
    NOT_FOUND = 4
    CONFLICT = 5
    UNAVAILABLE = 6
    TASK_FAILED = 7
    TIMED_OUT = 8
    INTERRUPTED = 130


_BY_CODE = {"unreachable": ExitCode.UNAVAILABLE, "no_server": ExitCode.UNAVAILABLE}
_BY_STATUS = {
    401: ExitCode.DENIED,
    403: ExitCode.DENIED,
    404: ExitCode.NOT_FOUND,
    409: ExitCode.CONFLICT,
    412: ExitCode.CONFLICT,
    503: ExitCode.UNAVAILABLE,
}


class CliError(Exception):
    """Ends the command with a message and an exit status."""

    def __init__(self, message: str, exit_code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class ServerError(CliError):
    """The server responded with an error, or cannot be reached."""

    def __init__(
        self,
        detail: str,
        *,
        code: str = "",
        status: int = 0,
        is_temporary: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(detail, _BY_CODE.get(code) or _BY_STATUS.get(status, ExitCode.FAILED))
        self.code = code
        self.status = status
        self.is_temporary = is_temporary
        """Whether the same request may succeed later."""
        self.retry_after_s = retry_after_s
