"""Closes database connections after requests, but only on threads that have one.

Django looks through all databases and caches at the start and end of every request. A request that touches neither, as
enqueueing and reading do, pays more for that than for its own parsing. The rule stays Django's, per thread: where a
connection is open, it is reset and closed as Django would.
"""

import threading
from typing import Any

from django.core.cache import close_caches
from django.core.signals import request_finished, request_started
from django.db import close_old_connections, connections, reset_queries
from django.db.backends.signals import connection_created

_thread = threading.local()


def close_only_what_is_open() -> None:
    """Replace Django's own receivers. The caches keep their connections in a pool, so theirs is not needed."""
    request_started.disconnect(reset_queries)
    request_started.disconnect(close_old_connections)
    request_finished.disconnect(close_old_connections)
    request_finished.disconnect(close_caches)
    connection_created.connect(_note_connection)
    request_started.connect(begin_request)
    request_finished.connect(end_request)


def _note_connection(**_: Any) -> None:
    """Remember that this thread has an open connection."""
    _thread.has_connection = True


def _has_connection() -> bool:
    """Tell whether this thread may have an open connection."""
    return getattr(_thread, "has_connection", False)


def begin_request(**_: Any) -> None:
    """Do what Django does before a request."""
    if _has_connection():
        reset_queries()
        close_old_connections()


def end_request(**_: Any) -> None:
    """Do what Django does after a request."""
    if _has_connection():
        close_old_connections()
        _thread.has_connection = any(made.connection for made in connections.all(initialized_only=True))
