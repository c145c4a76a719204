"""Starts a server with its own Valkey and database in a temporary folder, on loopback."""

import base64
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import django
from django.core.management import call_command

from tests.support.servers import ValkeyServer, free_port
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[1]


@contextmanager
def running_server() -> Iterator[str]:
    """Make this process one of an instance that is empty, serve the instance, and give its address; once a process."""
    with tempfile.TemporaryDirectory(prefix="runqy-demo-") as folder:
        redis = ValkeyServer().start()
        try:
            _enter(Path(folder), redis)
            with _served(Path(folder)) as url:
                yield url
        finally:
            redis.stop()


def _enter(folder: Path, redis: ValkeyServer) -> None:
    """Set up Django on the instance, and make its tables."""
    for name in [name for name in os.environ if name.startswith(("RUNQY_", "REDIS_", "DATABASE_"))]:
        del os.environ[name]
    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "runqy.settings",
        "DJANGO_ALLOW_ASYNC_UNSAFE": "true",  # Playwright runs its event loop in this thread
        "RUNQY_HOME": str(folder),
        "RUNQY_ENVIRONMENT": "staging",
        "RUNQY_LOG_LEVEL": "error",
        "RUNQY_VAULT_MASTER_KEY": base64.b64encode(os.urandom(32)).decode(),
        "REDIS_URL": redis.url,
        "RUNQY_WORKER_REDIS_URL": f"redis://worker:none@127.0.0.1:{redis.port}",  # else the admin warns
    }
    django.setup()
    call_command("migrate", verbosity=0)


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    """Serve the instance."""
    port = free_port()
    words = ("-m", "gunicorn", "runqy.asgi:application", "-c", "python:runqy.gunicorn_conf", "-w", "1")
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, *words, "-b", f"127.0.0.1:{port}"], cwd=ROOT, stdout=out, stderr=out
        )
    try:
        wait_until(lambda: "Listening at" in log.read_text(), timeout_s=30)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()
