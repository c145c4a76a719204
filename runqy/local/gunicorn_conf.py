"""How gunicorn runs the web processes; `runqy serve` and `runqy up` start it with this."""

import os

from runqy import settings

worker_class = "gthread"
workers = int(os.environ.get("WEB_CONCURRENCY", "2"))
threads = settings.RUNQY_MAX_WAITERS + settings.RUNQY_RUNNABLE_THREADS
http_parser = "fast"
keepalive = 75
timeout = 60
graceful_timeout = 10
backlog = 2048
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: S108 (gunicorn's heartbeat file, unlinked)
control_socket_disable = True
limit_request_line = 8190
