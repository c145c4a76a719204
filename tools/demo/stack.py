"""Start a server with a Valkey and a database of its own, in a temporary folder and on loopback."""

import base64
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import django
from django.core.management import call_command

from tests.support.servers import ValkeyServer, free_port
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoServer:
    """A server and its stores."""

    url: str
    hiding_url: str
    """The same instance with RUNQY_HIDE_PAYLOADS."""
    redis: ValkeyServer
    folder: Path
    """The folder with the database."""


@contextmanager
def running_server() -> Iterator[DemoServer]:
    """Set this process up for an empty instance, and serve it. Possible once in a process."""
    with tempfile.TemporaryDirectory(prefix="runqy-demo-") as name:
        folder, redis = Path(name), ValkeyServer().start()
        try:
            _set_up_django(folder, redis)
            with _served(folder) as url, _served(folder, RUNQY_HIDE_PAYLOADS="true") as hiding_url:
                yield DemoServer(url=url, hiding_url=hiding_url, redis=redis, folder=folder)
        finally:
            redis.stop()


def _set_up_django(folder: Path, redis: ValkeyServer) -> None:
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
def _served(folder: Path, **settings: str) -> Iterator[str]:
    port = free_port()
    words = ("-m", "gunicorn", "runqy.asgi:application", "-c", "python:runqy.gunicorn_conf", "-w", "1")
    log = folder / f"log-{port}"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, *words, "-b", f"127.0.0.1:{port}"],
            cwd=ROOT,
            env=os.environ | settings,
            stdout=out,
            stderr=out,
        )
    try:
        wait_until(lambda: "Listening at" in log.read_text(), timeout_s=30)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()
