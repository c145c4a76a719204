"""The program `runqy-worker`."""

import asyncio
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import structlog
import typer

from runqy.errors import RegistrationRefused, RunqyError
from workers.runtime.hardening import make_undumpable
from workers.runtime.logs import secrets, set_up_logging
from workers.runtime.registration import own_version
from workers.runtime.runner import Runner
from workers.runtime.settings import WorkerSettings, load_settings

log = structlog.get_logger()
app = typer.Typer(add_completion=False)


@app.command(help="Take tasks of some queues and run them. Every setting can come from the environment.")
def run(
    config: Annotated[Path | None, typer.Option("--config", "-config", help="YAML file with settings.")] = None,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Read the settings and serve until told to stop."""
    if version:
        typer.echo(own_version())
        return
    make_undumpable()
    set_up_logging()
    try:
        settings = load_settings(config)
    except RunqyError as error:
        typer.echo(error.detail, err=True)
        raise typer.Exit(2) from None
    secrets.add([settings.api_key, settings.git_token, settings.git_ssh_key])
    raise typer.Exit(asyncio.run(serve(settings)))


async def serve(settings: WorkerSettings) -> int:
    """Serve every queue of the settings; returns the exit status."""
    runners = [Runner(settings, queue) for queue in settings.queues]

    def stop() -> None:
        for runner in runners:
            runner.stop()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    outcomes = await asyncio.gather(*(_serve_one(runner, stop) for runner in runners))
    return max(outcomes)


async def _serve_one(runner: Runner, stop: Callable[[], None]) -> int:
    """Serve a queue. One that the server refuses (it may be deleted) ends alone; other failures end the worker."""
    try:
        await runner.run()
    except RegistrationRefused as error:
        log.critical("worker_ends", reason=error.detail)
        return 1
    except RunqyError as error:
        log.critical("worker_ends", reason=error.detail)
        stop()
        return 1
    except Exception:  # the supervisor: a bug in serving one queue must let the others end in order
        log.exception("worker_failed")
        stop()
        return 1
    return 0


def main() -> None:
    """Run the program."""
    app(prog_name=Path(sys.argv[0]).name)


if __name__ == "__main__":
    main()
