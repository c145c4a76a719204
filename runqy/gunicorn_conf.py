"""How gunicorn runs the web processes; `runqy serve` and `runqy up` start it with this."""

import os
from typing import TYPE_CHECKING

from runqy import settings
from runqy.open_files import raise_open_files_limit

if TYPE_CHECKING:
    from gunicorn.arbiter import Arbiter

worker_class = "runqy.dataplane.worker.WebWorker"
workers = settings.env.count("WEB_CONCURRENCY", 2, lowest=1, highest=256)
keepalive = 75
timeout = 60
graceful_timeout = settings.RUNQY_DRAIN_S + 10
"""Longer than draining and uvicorn's own graceful shutdown together (`GRACEFUL_SHUTDOWN_S`)."""
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: S108 (a heartbeat, unlinked at once)
control_socket_disable = True


def on_starting(_server: "Arbiter") -> None:
    """Allow as many connections as the system does."""
    raise_open_files_limit()
