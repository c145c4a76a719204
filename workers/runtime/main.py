"""The program `runqy-worker`."""

import asyncio
import ctypes
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
from runqy.home import make_home, restrict_new_files
from runqy.open_files import raise_open_files_limit
from workers.deploy.isolation import is_isolation_supported
from workers.runtime.logs import configure_logging, secrets
from workers.runtime.redis_connections import ConnectionRegistry
from workers.runtime.registration import own_version
from workers.runtime.runner import Runner
from workers.runtime.settings import WorkerSettings, load_settings

_PR_SET_DUMPABLE = 4
QUEUES_PER_USER = 16
"""How many queues share a Redis user, and so its connections.

Redis compares each key with the patterns of all of them: with 16 queues a script takes as long as with one, with 150
two to three times as long.
"""

log = structlog.get_logger()
app = typer.Typer(add_completion=False)


@app.command(help="Take tasks of some queues and run them. Every setting can come from the environment.")
def run(
    config: Annotated[Path | None, typer.Option("--config", "-config", help="YAML file with settings.")] = None,
    allow_http: Annotated[
        bool, typer.Option("--allow-http", help="Send the API key and receive secrets by http, from any machine.")
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
    secrets.add([settings.api_key, settings.git_token, settings.git_ssh_key])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        status = runner.run(serve(settings))
    raise typer.Exit(status)


async def serve(settings: WorkerSettings) -> int:
    """Serve every queue of the settings; return the exit status."""
    registry = ConnectionRegistry()
    runners = []
    for start in range(0, len(settings.queues), QUEUES_PER_USER):
        instance_id = str(uuid.uuid4())
        some = settings.queues[start : start + QUEUES_PER_USER]
        runners += [Runner(settings, queue, registry, instance_id=instance_id) for queue in some]

    def stop() -> None:
        for runner in runners:
            runner.stop()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    outcomes = await asyncio.gather(*(_serve_queue(runner, stop) for runner in runners))
    return max(outcomes)


async def _serve_queue(runner: Runner, stop: Callable[[], None]) -> int:
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


def make_undumpable() -> bool:
    """Keep memory and environment of this process from debuggers and /proc, on Linux; return whether that worked.

    The API key and the password of Redis are in it, and children run as the same user.
    """
    if sys.platform != "linux":
        return False
    return bool(ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) == 0)


def main() -> None:
    """Run the program."""
    app(prog_name=Path(sys.argv[0]).name)


if __name__ == "__main__":
    main()
