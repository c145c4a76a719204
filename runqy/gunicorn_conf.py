"""How gunicorn runs the web processes; `runqy serve` and `runqy up` start it with this."""

import os
import signal
from types import FrameType
from typing import TYPE_CHECKING

from gunicorn import util

from runqy import settings
from runqy.http_date import http_date
from runqy.request_threads import open_threads
from runqy.unreadable import write_problem

if TYPE_CHECKING:
    from gunicorn.workers.gthread import ThreadWorker

worker_class = "gthread"
workers = settings.env.count("WEB_CONCURRENCY", 2, lowest=1, highest=256)
threads = settings.RUNQY_MAX_WAITERS + settings.RUNQY_RUNNABLE_THREADS
http_parser = "auto"  # the one in C, where it could be built
forwarded_allow_ips = ""  # RUNQY_TRUSTED_PROXIES says whom to believe; gunicorn would believe this machine
keepalive = 75
timeout = 60
graceful_timeout = settings.RUNQY_DRAIN_S + 10
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: S108 (a heartbeat, unlinked at once)
control_socket_disable = True


def post_worker_init(worker: "ThreadWorker") -> None:
    """Run requests on threads that know how to wait, and send waiting readers away when the process is to end.

    From SIGTERM on `/readyz` says 503; for `RUNQY_DRAIN_S` the process goes on all the same, until every load balancer
    has seen that. SIGUSR1, which gunicorn's master passes on, says that the stack begins to stop: the process goes on,
    and nobody waits.

    What is no HTTP is answered with a problem too, and the date of answers is spelled once a second.
    """
    util.write_error, util.http_date = write_problem, http_date
    from runqy.readiness import begin_draining  # noqa: PLC0415 (Django is set up by now, and was not above)
    from tasks.waiting import close_waiting_room  # noqa: PLC0415 (likewise)

    worker.tpool = open_threads(settings.RUNQY_RUNNABLE_THREADS, threads)

    def end(number: int, frame: FrameType | None) -> None:
        close_waiting_room()
        worker.handle_exit(number, frame)

    def send_readers_away(_number: int, _frame: FrameType | None) -> None:
        begin_draining()
        close_waiting_room()

    def drain(number: int, frame: FrameType | None) -> None:
        begin_draining()
        if not settings.RUNQY_DRAIN_S:
            end(number, frame)
            return
        for hurry in (signal.SIGALRM, signal.SIGTERM):
            signal.signal(hurry, end)
        signal.alarm(settings.RUNQY_DRAIN_S)

    signal.signal(signal.SIGTERM, drain)
    signal.signal(signal.SIGUSR1, send_readers_away)
