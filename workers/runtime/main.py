"""The program `runqy-worker`."""

import asyncio
import ctypes
import os
import signal
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import structlog
import typer
import uvloop

from runqy.errors import RegistrationRefused, RunqyError
from runqy.home import make_home
from runqy.process import raise_open_files_limit, restrict_new_files
from runqy.tracing import start_tracing
from workers.deploy.exec_child import is_isolation_supported
from workers.runtime.logs import configure_logging
from workers.runtime.queue_worker import QueueWorker
from workers.runtime.redaction import environment_secrets, secrets
from workers.runtime.redis_connections import ConnectionRegistry
from workers.runtime.registration import own_version
from workers.runtime.settings import WorkerSettings, load_settings

_PR_SET_DUMPABLE = 4
QUEUES_PER_USER = 16
"""How many queues share a Redis user and its connections. Redis compares each key with the patterns of all of them:
with 16 queues a script takes as long as with one, with 150 two to three times as long."""

log = structlog.get_logger()
app = typer.Typer(add_completion=False)


@app.command(help="Run tasks from one or more queues. All settings can be given as environment variables.")
def run(
    config: Annotated[
        Path | None, typer.Option("--config", "-config", help="Path of a YAML file with settings.")
    ] = None,
    allow_http: Annotated[
        bool,
        typer.Option("--allow-http", help="Allow an http server URL: the API key and secrets are sent unencrypted."),
    ] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Read the settings and serve until stopped."""
    if version:
        typer.echo(own_version())
        return
    restrict_new_files()
    make_undumpable()
    raise_open_files_limit()
    configure_logging()
    try:
        settings = load_settings(config, allow_http=allow_http)
        if settings.home in settings.deployment_dir.parents:
            make_home(settings.home)
    except RunqyError as error:
        typer.echo(error.detail, err=True)
        raise typer.Exit(2) from None
    if settings.isolates_children and not is_isolation_supported():
        log.warning("children_not_isolated", reason="This system has no Landlock (Linux 5.19 or newer).")
    secrets.add([settings.api_key, settings.git_token, settings.git_ssh_key, *environment_secrets(os.environ)])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        start_tracing("runqy-worker")
        status = runner.run(serve(settings))
    raise typer.Exit(status)


async def serve(settings: WorkerSettings) -> int:
    """Serve every queue of the settings; return the exit status."""
    registry = ConnectionRegistry()
    runners = []
    for start in range(0, len(settings.queues), QUEUES_PER_USER):
        instance_id = str(uuid.uuid4())
        queues = settings.queues[start : start + QUEUES_PER_USER]
        runners += [QueueWorker(settings, queue, registry, instance_id=instance_id) for queue in queues]

    def stop() -> None:
        for runner in runners:
            runner.stop()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    outcomes = await asyncio.gather(*(_serve_queue(runner, stop) for runner in runners))
    return max(outcomes)


async def _serve_queue(runner: QueueWorker, stop: Callable[[], None]) -> int:
    """Serve a queue. If the server refuses a queue (it may be deleted), only this queue ends; other failures end the
    worker.
    """
    try:
        await runner.run()
    except RegistrationRefused as error:
        log.critical("worker_ends", reason=str(error))
        return 1
    except RunqyError as error:
        log.critical("worker_ends", reason=str(error))
        stop()
        return 1
    except Exception:  # the supervisor: a bug in one queue must let the others stop regularly
        log.exception("worker_failed")
        stop()
        return 1
    return 0


def make_undumpable() -> bool:
    """Hide memory and environment of this process from debuggers and /proc, on Linux; return whether it succeeded.

    They contain the API key and the Redis password, and children run as the same user.
    """
    if sys.platform != "linux":
        return False
    return bool(ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) == 0)


def main() -> None:
    app(prog_name=Path(sys.argv[0]).name)


if __name__ == "__main__":
    main()
