"""The configuration of gunicorn, used by `runqy serve` and `runqy up`."""

import os
import sys
from typing import TYPE_CHECKING

from runqy import settings
from runqy.config.process import raise_open_files_limit
from runqy.dataplane.listeners import bind_listener
from runqy.metrics import multiprocess
from runqy.supervisor.ports import port_error

if TYPE_CHECKING:
    from gunicorn.arbiter import Arbiter
    from gunicorn.sock import TCPSocket
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


def on_starting(server: "Arbiter") -> None:
    """Allow as many connections as the system permits, bind without listening, and reset the metrics.

    A socket that was passed to gunicorn is left as it is.
    """
    raise_open_files_limit()
    addresses = server.cfg.address
    if not (server.master_pid or _has_passed_socket) and all(isinstance(address, tuple) for address in addresses):
        server.LISTENERS = [_bind(address, server) for address in addresses]
    multiprocess.prepare_folder(_metrics, settings.RUNQY_HOME)


def _bind(address: "tuple[str, int]", server: "Arbiter") -> "TCPSocket":
    try:
        return bind_listener(address, server)
    except OSError as error:
        sys.exit(f"runqy serve: {port_error(*address, error)}")


def child_exit(_server: "Arbiter", worker: "Worker") -> None:
    """Remove the gauges of a web process that has ended. Its counters remain part of the sums."""
    from prometheus_client.multiprocess import mark_process_dead  # noqa: PLC0415 (after the variable was set, and in no master that forks)

    mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]
