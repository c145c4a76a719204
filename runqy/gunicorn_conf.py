"""The configuration of gunicorn, used by `runqy serve` and `runqy up`."""

import os
import socket
from typing import TYPE_CHECKING

from gunicorn.sock import TCP6Socket, TCPSocket

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


def _bind(address: "tuple[str, int]", server: "Arbiter") -> TCPSocket:
    """Return a socket that refuses connections until the first web process listens on it, through uvicorn.

    Clients then try another server. Were it to listen from here on, a proxy's first requests would wait for the
    process, or be reset.
    """

    class BoundSocket(TCP6Socket if ":" in address[0] else TCPSocket):  # type: ignore[misc] # it has no types
        def set_options(self, sock: socket.socket, bound: bool = False) -> socket.socket:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.bind(sock)
            sock.setblocking(False)
            sock.set_inheritable(True)
            return sock

    return BoundSocket(address, server.cfg, server.log)


def on_starting(server: "Arbiter") -> None:
    """Allow as many connections as the system permits, reset the metrics, and bind without listening.

    A socket that was passed to gunicorn is left as it is.
    """
    raise_open_files_limit()
    multiprocess.prepare_folder(_metrics, settings.RUNQY_HOME)
    addresses = server.cfg.address
    if not (server.master_pid or _has_passed_socket) and all(isinstance(address, tuple) for address in addresses):
        server.LISTENERS = [_bind(address, server) for address in addresses]


def child_exit(_server: "Arbiter", worker: "Worker") -> None:
    """Remove the gauges of a web process that has ended. Its counters remain part of the sums."""
    from prometheus_client.multiprocess import mark_process_dead  # noqa: PLC0415 (after the variable was set, and in no master that forks)

    mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]
