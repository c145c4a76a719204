"""`runqy serve`: run the web server and maintenance with the configured database and Redis."""

import os
from collections.abc import Mapping
from typing import NoReturn

from runqy import settings
from runqy.core.environment.home import make_home
from runqy.errors import StackFailed
from runqy.stack import processes, terminal
from runqy.stack.locks import FileLock, only_stack
from runqy.stack.ports import format_address, is_served, require_free_port
from runqy.stack.processes import CommandFailed, run_command
from runqy.stack.stop_signals import Interrupted, StopSignals, catch_signals
from runqy.stack.supervisor import Supervisor


def run_serve(*, host: str, is_migrating: bool) -> int:
    """Run the server until a stop signal. Return the exit code."""
    with catch_signals() as stop:
        try:
            _require_redis()
            folder = make_home(settings.RUNQY_HOME) / "run" / f"serve-{settings.PORT}"  # several may share RUNQY_HOME
            with only_stack(folder, stop) as lock:
                require_free_port(host, settings.PORT)
                _run(lock, stop, host=host, is_migrating=is_migrating)
        except StackFailed as error:
            terminal.error(f"runqy serve: {error}")
            return 1
        except Interrupted:
            return 130
    return 0


def run_web(*, host: str) -> NoReturn:
    """Replace this process by the web server, for a service manager that supervises it."""
    if "LISTEN_FDS" not in os.environ:  # else the socket is there already
        _require_free_port(host)
    # The process id stays: systemd names it in the variables with which it passes a socket.
    _replace_process(
        processes.web(bind=format_address(host, settings.PORT), env=_environment(), drain_s=settings.RUNQY_DRAIN_S)
    )


def _require_free_port(host: str) -> None:
    try:
        require_free_port(host, settings.PORT)
    except StackFailed as error:
        terminal.error(f"runqy serve: {error}")
        raise SystemExit(1) from error


def run_maintenance() -> NoReturn:
    """Replace this process by maintenance."""
    _replace_process(processes.maintenance(env=_environment()))


def _replace_process(spec: processes.ProcessSpec) -> NoReturn:
    try:
        _require_redis()
        make_home(settings.RUNQY_HOME)
    except StackFailed as error:
        terminal.error(f"runqy serve: {error}")
        raise SystemExit(1) from error
    os.execve(spec.args[0], spec.args, spec.env)  # noqa: S606 (arguments of this project)


def _require_redis() -> None:
    if not settings.REDIS_IS_CONFIGURED:
        raise StackFailed("no Redis is configured: set REDIS_URL, or use `runqy up`, which starts one.")


def _environment() -> dict[str, str]:
    return dict(os.environ) | {"DJANGO_SETTINGS_MODULE": "runqy.settings", "RUNQY_HOME": str(settings.RUNQY_HOME)}


def _run(lock: FileLock, stop: StopSignals, *, host: str, is_migrating: bool) -> None:
    """Prepare the database, then supervise both processes until a stop signal."""
    env = _environment()
    _prepare(env, stop, is_migrating=is_migrating)
    supervisor = Supervisor(stop, terminal.error, [lock.fd])
    try:
        bind = format_address(host, settings.PORT)
        web = processes.web(bind=bind, env=env, drain_s=settings.RUNQY_DRAIN_S)
        supervisor.start(web, lambda: is_served(host, settings.PORT))
        supervisor.start(processes.maintenance(env=env))
        terminal.error(f"runqy is listening on {bind}.")
        supervisor.run()
    finally:
        supervisor.stop()


def _prepare(env: Mapping[str, str], stop: StopSignals, *, is_migrating: bool) -> None:
    """Apply the migrations, or raise StackFailed if one is missing. Then check the keys and load the queue files."""
    log = settings.RUNQY_HOME / "logs" / "commands.log"
    migrate = ("migrate", "--no-input") if is_migrating else ("migrate", "--check")
    try:
        run_command(processes.commands(migrate, env=env, log=log), stop)
    except CommandFailed as error:
        if is_migrating or error.exit_code == os.EX_UNAVAILABLE:
            raise
        raise StackFailed(f"the database has unapplied migrations; --migrate applies them.\n{error}") from error
    load_queues = [("load_queues",)] if settings.QUEUE_WORKERS_DIR.is_dir() else []
    try:
        checks = [("check_api_keys",), ("check_vault_keys",)]
        run_command(processes.commands(*checks, *load_queues, env=env), stop)
    except StackFailed:
        terminal.error("runqy serve: not all queue files were loaded; see the errors above.")
