"""Answers what the HTTP server itself could not read, in the place of gunicorn's own pages."""

import secrets
import socket
from http import HTTPStatus

from gunicorn import util

from runqy.api.renderers import encode_json, problem
from runqy.errors import HeadersTooLarge, InternalError, RequestInvalid, RunqyError


def write_problem(connection: socket.socket, status: int, reason: str, message: str) -> None:
    """Send a problem and say that the connection ends, as `gunicorn.util.write_error` does with a page."""
    name = secrets.token_hex(8)
    error = _error_of(status, message or reason)
    body = encode_json(problem(error))
    head = (
        f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\n"
        "Connection: close\r\n"
        "Content-Type: application/problem+json\r\n"
        f"Content-Length: {len(body)}\r\n"
        f"X-Request-ID: {name}\r\n\r\n"
    )
    util.write_nonblock(connection, head.encode("ascii") + body)


def _error_of(status: int, message: str) -> RunqyError:
    """Return the error for a status of gunicorn's; it has more kinds of wrong requests than clients care about."""
    if status == HeadersTooLarge.status:
        return HeadersTooLarge()
    return InternalError() if status == InternalError.status else RequestInvalid(message[:300])
