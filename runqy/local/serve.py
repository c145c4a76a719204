"""Runs the server's processes, web and maintenance, with the database and Redis that are configured."""

import os
from collections.abc import Mapping
from pathlib import Path

from runqy import settings
from runqy.errors import StackFailed
from runqy.home import make_home
from runqy.local import programs, screen
from runqy.local.commands import CommandFailed, run_command
from runqy.local.guardian import StackLocks, only_stack
from runqy.local.ports import is_served, require_free_port, spell_address
from runqy.local.stop_signals import StopAsked, StopSignals, caught_signals
from runqy.local.supervisor import Supervisor


def run_serve(*, host: str, is_migrating: bool) -> int:
    """Run the server until a signal ends it. Returns the exit code."""
    with caught_signals() as stop:
        try:
            if not settings.REDIS_IS_CONFIGURED:
                raise StackFailed("no Redis is configured: set REDIS_URL, or try `runqy up`, which brings its own.")
            locks = make_home(settings.RUNQY_HOME) / "run" / f"serve-{settings.PORT}"
            with only_stack(_stack_locks(locks), stop):
                require_free_port(host, settings.PORT)
                _run(locks, stop, host=host, is_migrating=is_migrating)
        except StackFailed as error:
            screen.complain(f"runqy serve: {error}")
            return 1
        except StopAsked:
            return 130
    return 0


def _stack_locks(folder: Path) -> StackLocks:
    """Return the locks of the server on this port: several may share RUNQY_HOME."""
    names = ("command", "maintenance", "web")
    return StackLocks(stack=folder / "stack.lock", processes=tuple(folder / f"{name}.lock" for name in names))


def _run(locks: Path, stop: StopSignals, *, host: str, is_migrating: bool) -> None:
    """Look at the database, then look after both processes until a signal comes."""
    env = dict(os.environ) | {"DJANGO_SETTINGS_MODULE": "runqy.settings", "RUNQY_HOME": str(settings.RUNQY_HOME)}
    _prepare(env, locks / "command.lock", stop, is_migrating=is_migrating)
    supervisor = Supervisor(stop, screen.complain)
    try:
        bind = spell_address(host, settings.PORT)
        web = programs.web(bind=bind, env=env, lock=locks / "web.lock", drain_s=settings.RUNQY_DRAIN_S)
        supervisor.start(web, lambda: is_served(host, settings.PORT))
        supervisor.start(programs.maintenance(env=env, lock=locks / "maintenance.lock"))
        screen.complain(f"runqy serves {bind}.")
        supervisor.run()
    finally:
        supervisor.stop()


def _prepare(env: Mapping[str, str], lock: Path, stop: StopSignals, *, is_migrating: bool) -> None:
    """Apply the database's migrations if asked to, else make sure that none is missing; load queue files."""
    log = settings.RUNQY_HOME / "logs" / "commands.log"
    migrate = ("migrate", "--no-input") if is_migrating else ("migrate", "--check")
    try:
        run_command(programs.commands(migrate, env=env, lock=lock, log=log), stop)
    except CommandFailed as error:
        if is_migrating or error.exit_code == os.EX_UNAVAILABLE:
            raise
        raise StackFailed(f"the database is not up to date; --migrate applies what is missing.\n{error}") from error
    if settings.QUEUE_WORKERS_DIR.is_dir():
        try:
            run_command(programs.commands(("load_queues",), env=env, lock=lock), stop)
        except StackFailed:
            screen.complain("runqy serve: not all queue files were loaded; what is wrong stands above.")
