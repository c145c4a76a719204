"""The configuration of gunicorn, used by `runqy serve` and `runqy up`."""

import os
from typing import TYPE_CHECKING

from runqy import settings
from runqy.core.environment.process import raise_open_files_limit
from runqy.server.metrics import multiprocess

if TYPE_CHECKING:
    from gunicorn.arbiter import Arbiter
    from gunicorn.workers.base import Worker

worker_class = "runqy.server.dataplane.gunicorn_worker.WebWorker"
workers = settings.WEB_CONCURRENCY
keepalive = 75
timeout = 60
graceful_timeout = settings.RUNQY_DRAIN_S + 10
"""More than draining and uvicorn's graceful shutdown (`GRACEFUL_SHUTDOWN_S`) together."""
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: S108 (a heartbeat, unlinked at once)
control_socket_disable = True
_metrics = multiprocess.set_folder(settings.RUNQY_HOME)  # before a web process imports prometheus_client


def on_starting(_server: "Arbiter") -> None:
    """Allow as many connections as the system permits, and reset the metrics."""
    raise_open_files_limit()
    multiprocess.prepare_folder(_metrics, settings.RUNQY_HOME)


def child_exit(_server: "Arbiter", worker: "Worker") -> None:
    """Remove the gauges of a web process that has ended. Its counters remain part of the sums."""
    from prometheus_client.multiprocess import mark_process_dead  # noqa: PLC0415 (after the variable was set, and in no master that forks)

    mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]
