"""Owns the exit statuses of the command line, and which error leads to which."""

from enum import IntEnum

from runqy.cli.connection import ServerRefused


class Exit(IntEnum):
    """What a shell sees; 2 is a wrong command line."""

    FAILED = 1
    DENIED = 3
    NOT_FOUND = 4
    CONFLICT = 5
    UNAVAILABLE = 6
    TASK_FAILED = 7


_BY_CODE = {"unreachable": Exit.UNAVAILABLE, "no_server": Exit.UNAVAILABLE}
_BY_STATUS = {
    401: Exit.DENIED,
    403: Exit.DENIED,
    404: Exit.NOT_FOUND,
    409: Exit.CONFLICT,
    412: Exit.CONFLICT,
    503: Exit.UNAVAILABLE,
}


def exit_status(error: ServerRefused) -> Exit:
    """Return the status for an error of the server."""
    return _BY_CODE.get(error.code) or _BY_STATUS.get(error.status, Exit.FAILED)
