"""gunicorn as it runs the server, for applications that are not the server: without what knows its Django project."""

from typing import TYPE_CHECKING

from gunicorn import util

from runqy import settings
from runqy.gunicorn_conf import (
    control_socket_disable,
    http_parser,
    keepalive,
    threads,
    worker_class,
    worker_tmp_dir,
    workers,
)
from runqy.http_date import http_date
from runqy.request_threads import open_threads

if TYPE_CHECKING:
    from gunicorn.workers.gthread import ThreadWorker

__all__ = [
    "control_socket_disable",
    "http_parser",
    "keepalive",
    "threads",
    "worker_class",
    "worker_tmp_dir",
    "workers",
]


def post_worker_init(worker: "ThreadWorker") -> None:
    """Run requests on the server's own threads: gunicorn's have a fast and a slow spell, of which none is a measure."""
    util.http_date = http_date
    worker.tpool = open_threads(settings.RUNQY_RUNNABLE_THREADS, threads)
