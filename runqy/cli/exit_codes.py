"""Exit codes of the command line."""

from enum import IntEnum

from runqy.cli.client import ServerError


class ExitCode(IntEnum):
    """Exit codes. The code 2 is a usage error, as in Click."""

    FAILED = 1
    DENIED = 3
    NOT_FOUND = 4
    CONFLICT = 5
    UNAVAILABLE = 6
    TASK_FAILED = 7


_BY_CODE = {"unreachable": ExitCode.UNAVAILABLE, "no_server": ExitCode.UNAVAILABLE}
_BY_STATUS = {
    401: ExitCode.DENIED,
    403: ExitCode.DENIED,
    404: ExitCode.NOT_FOUND,
    409: ExitCode.CONFLICT,
    412: ExitCode.CONFLICT,
    503: ExitCode.UNAVAILABLE,
}


def get_exit_code(error: ServerError) -> ExitCode:
    return _BY_CODE.get(error.code) or _BY_STATUS.get(error.status, ExitCode.FAILED)
