"""The program `runqy-worker`."""

import asyncio
import ctypes
import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import structlog
import typer
import uvloop

from runqy.broker.scripts import load_scripts
from runqy.core.environment.home import make_home
from runqy.core.environment.process import collect_rarely, raise_open_files_limit, restrict_new_files
from runqy.core.telemetry.tracing import start_tracing
from runqy.errors import RunqyError
from workers.deploy.exec_child import find_isolation_obstacle
from workers.runtime.logs import configure_logging
from workers.runtime.queue_workers import QueueWorkers
from workers.runtime.redaction import environment_secrets, secrets
from workers.runtime.registration import own_version
from workers.runtime.settings import WorkerSettings, load_settings

_PR_SET_DUMPABLE = 4  # <linux/prctl.h>

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
        typer.echo(own_version())  # noqa: TID251 (no output of the command line)
        return
    # Before secrets are read and files are written.
    restrict_new_files()
    make_undumpable()
    raise_open_files_limit()
    load_scripts()
    configure_logging()
    try:
        settings = load_settings(config, allow_http=allow_http)
        if settings.home in settings.deployment_dir.parents:
            make_home(settings.home)
    except RunqyError as error:
        typer.echo(error.detail, err=True)  # noqa: TID251
        raise typer.Exit(2) from None
    if settings.isolates_children and (obstacle := find_isolation_obstacle()):
        log.warning("children_not_isolated", reason=obstacle)
    secrets.add([settings.api_key, settings.git_token, settings.git_ssh_key, *environment_secrets(os.environ)])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        start_tracing("runqy-worker")
        status = runner.run(serve(settings))
    raise typer.Exit(status)


async def serve(settings: WorkerSettings) -> int:
    """Serve the queues of the settings until stopped. Return the exit status."""
    workers = QueueWorkers(settings)
    collect_rarely()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, workers.receive_signal)
    return await workers.run()


def make_undumpable() -> bool:
    """Hide this process's memory and environment from debuggers and /proc, on Linux. Return whether it succeeded.

    They contain the API key and the Redis password, and children run as the same user.
    """
    if sys.platform != "linux":
        return False
    return bool(ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) == 0)


def main() -> None:
    app(prog_name=Path(sys.argv[0]).name)


if __name__ == "__main__":
    main()
