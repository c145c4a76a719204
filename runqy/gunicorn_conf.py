"""The configuration of gunicorn, used by `runqy serve` and `runqy up`."""

import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

from runqy import settings
from runqy.config.process import raise_open_files_limit
from runqy.metrics import multiprocess

if TYPE_CHECKING:
    from gunicorn.arbiter import Arbiter
    from gunicorn.workers.base import Worker

worker_class = "runqy.dataplane.gunicorn_worker.WebWorker"
workers = settings.WEB_CONCURRENCY
keepalive = 75
timeout = 60
graceful_timeout = settings.RUNQY_DRAIN_S + 10
"""More than draining and uvicorn's graceful shutdown (`GRACEFUL_SHUTDOWN_S`) together."""
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: S108 (a heartbeat, unlinked at once)
control_socket_disable = True
_has_passed_socket = "LISTEN_FDS" in os.environ  # gunicorn removes it when it takes the socket
_metrics = multiprocess.set_folder(settings.RUNQY_HOME)  # before a web process imports prometheus_client


def on_starting(_server: "Arbiter") -> None:
    """Allow as many connections as the system permits, and reset the metrics."""
    raise_open_files_limit()
    multiprocess.prepare_folder(_metrics, settings.RUNQY_HOME)


def when_ready(server: "Arbiter") -> None:
    """Refuse connections until a web process has started, so that clients try another server instead of waiting.

    A socket that was passed to gunicorn is left as it is.
    """
    # All web processes share the socket. The first one that starts makes it listen again, through uvicorn.
    for listener in [] if server.master_pid or _has_passed_socket else server.LISTENERS:
        if isinstance(listener.cfg_addr, tuple) and listener.cfg_addr in server.cfg.address:
            with suppress(OSError):  # only Linux can stop listening in this way
                listener.shutdown(socket.SHUT_RD)


def child_exit(_server: "Arbiter", worker: "Worker") -> None:
    """Remove the gauges of a web process that has ended. Its counters remain part of the sums."""
    from prometheus_client.multiprocess import mark_process_dead  # noqa: PLC0415 (after the variable was set, and in no master that forks)

    mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]
