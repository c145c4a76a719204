"""Runs the whole product on one machine: Valkey, migrations, web, maintenance and one worker."""

import shutil
from collections.abc import Mapping

from runqy import settings
from runqy.broker.connection import RedisTarget
from runqy.broker.worker_records import WorkerRecord
from runqy.errors import StackFailed
from runqy.local import programs, screen
from runqy.local.commands import run_command
from runqy.local.deployments import watched_deployments
from runqy.local.guardian import StackLocks, only_stack
from runqy.local.instance import Instance, note_greeting, open_instance, server_environment, worker_environment
from runqy.local.other_queues import find_other_queues
from runqy.local.ports import is_served, require_free_port
from runqy.local.queue_files import QueueFiles, find_queue_files
from runqy.local.stop_signals import StopAsked, StopSignals, caught_signals
from runqy.local.supervisor import Supervisor
from runqy.local.valkey import configure_valkey

HOST = "127.0.0.1"
_DEPLOYMENT_S = 300.0


def run_up() -> int:
    """Run the stack until a signal ends it. Returns the exit code."""
    with caught_signals() as stop:
        try:
            if not shutil.which("git"):
                raise StackFailed("git is not installed; the worker deploys code with it.")
            instance = open_instance()
            with only_stack(_locks(instance), stop):
                _run(instance, stop)
        except StackFailed as error:
            screen.complain(f"runqy up: {error}")
            return 1
        except StopAsked:
            return 130
    return 0


def _locks(instance: Instance) -> StackLocks:
    names = ("command", "worker", "maintenance", "web")
    return StackLocks(
        stack=instance.lock("stack"),
        processes=(*map(instance.lock, names), instance.home / "valkey" / "lock"),
    )


def _run(instance: Instance, stop: StopSignals) -> None:
    """Start everything, show where it is, and look after it until a signal comes."""
    require_free_port(HOST, instance.port)
    files = find_queue_files(instance.home)
    supervisor = Supervisor(stop, screen.say)
    try:
        target, redis_env = _start_redis(instance, supervisor)
        env = server_environment(instance, QUEUE_WORKERS_DIR=str(files.folder), **redis_env)
        _prepare(instance, env, stop)
        _start_server(instance, supervisor, env)
        records = _start_worker(instance, supervisor, files, target)
        others = find_other_queues(instance, {queue.name for queue in files.queues})
        screen.show_overview(instance, files.queues, records, folder=files.folder, others=others)
        note_greeting(instance)
        supervisor.run()
        hint = "; running tasks may end, a second Ctrl-C gives them back" if "worker" in supervisor.names else ""
        screen.say(f"Stopping: {', '.join(supervisor.names)}{hint} …")
    finally:
        supervisor.stop()
    screen.say("Stopped.")


def _start_redis(instance: Instance, supervisor: Supervisor) -> tuple[RedisTarget, dict[str, str]]:
    """Start the embedded Valkey unless a Redis is configured. Returns where it is, and that as variables."""
    if settings.REDIS_IS_CONFIGURED:
        return settings.REDIS_TARGET, {}
    valkey = configure_valkey(instance.home, instance.log("valkey"))
    supervisor.start(valkey.program, valkey.is_ready)
    given = {"REDIS_URL_FILE": str(valkey.url_file)}
    if not settings.env.text("RUNQY_WORKER_REDIS_URL", ""):
        given["RUNQY_WORKER_REDIS_URL_FILE"] = str(valkey.worker_url_file)
    return valkey.target, given


def _prepare(instance: Instance, env: Mapping[str, str], stop: StopSignals) -> None:
    """Bring the database up to date: tables, the administrator, the queues of the files."""
    screen.say("Preparing the database …")
    commands = programs.commands(
        ("migrate", "--no-input"),
        ("ensure_admin", str(instance.home / "admin_password")),
        ("load_queues", env["QUEUE_WORKERS_DIR"]),
        env=env,
        lock=instance.lock("command"),
        log=instance.log("commands"),
    )
    run_command(commands, stop)


def _start_server(instance: Instance, supervisor: Supervisor, env: Mapping[str, str]) -> None:
    """Start the web server and maintenance."""
    screen.say(f"Starting the web server on port {instance.port} and maintenance …")
    bind = f"{HOST}:{instance.port}"
    supervisor.start(
        programs.web(bind=bind, env=env, lock=instance.lock("web"), log=instance.log("web")),
        lambda: is_served(HOST, instance.port),
    )
    supervisor.start(programs.maintenance(env=env, lock=instance.lock("maintenance"), log=instance.log("maintenance")))


def _start_worker(
    instance: Instance, supervisor: Supervisor, files: QueueFiles, target: RedisTarget
) -> dict[str, WorkerRecord]:
    """Start a worker for the queues and wait until it has deployed them, or could not. Returns what it reports."""
    names = tuple(queue.name for queue in files.queues if queue.is_enabled)
    if not names:
        return {}
    is_first = not (instance.home / "deployments").exists()
    screen.say(
        f"Starting a worker for {', '.join(names)}{'; it builds their environments first' if is_first else ''} …"
    )
    with watched_deployments(target, names, screen.say) as deployments:
        env = worker_environment(instance, names)
        shutdown_s = settings.env.seconds("RUNQY_SHUTDOWN_TIMEOUT", 30)
        worker = programs.worker(
            env=env, lock=instance.lock("worker"), log=instance.log("worker"), shutdown_s=shutdown_s
        )
        supervisor.start(worker)
        supervisor.wait_until(deployments.are_settled, _DEPLOYMENT_S)
    return deployments.records
