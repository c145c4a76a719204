"""Web processes that a test may break, and how they recover."""

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import redis as redis_py

from runqy.broker import keys
from tests.faults.producers import ENQUEUE, KeptConnection
from tests.support.database import database_variables
from tests.support.waiting import wait_until
from tests.support.web import ASGI, WSGI, WebProcess

PATIENT = ("tests.faults.patient_site:application", *ASGI[1:])
PATIENT_WSGI = ("tests.faults.patient_wsgi_site:application", *WSGI[1:], "--keep-alive", "75")
"""Gunicorn's arguments for servers that wait for Redis longer than any request takes on a busy machine."""

StartWeb = Callable[..., WebProcess]

PUBLISHED = (b"runqy:config:", keys.QUEUE_REVISIONS.encode())
RECOVERED_S = 30.0
"""After this a server that was out of order works again, on any machine."""


def start_web_process(folder: Path, redis_url: str, gunicorn: Sequence[str] = ASGI, **variables: Any) -> WebProcess:
    urls = {"REDIS_URL": redis_url, "RUNQY_WORKER_REDIS_URL": "redis://:of-workers@127.0.0.1"}
    return WebProcess(folder, gunicorn, **database_variables() | urls | variables)


def recover(web: WebProcess, stored: redis_py.Redis) -> None:
    """Wait until a server accepts tasks, and leave none."""
    with closing(KeptConnection(web.port)) as client:
        wait_until(lambda: client.send(*ENQUEUE).status == 200, RECOVERED_S)
    remove_tasks(stored)


def remove_tasks(stored: redis_py.Redis) -> None:
    """Remove the tasks that other tests have left, and what they kept of idempotency keys."""
    for key in stored.scan_iter(count=1000):
        if not key.startswith(PUBLISHED):
            stored.delete(key)
