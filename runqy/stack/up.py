"""`runqy up`: run Valkey, migrations, web, maintenance and one worker on this machine."""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import closing

from runqy import settings
from runqy.broker.workers.records import WorkerRecord
from runqy.core.environment.connection_urls import RedisTarget
from runqy.core.environment.variables import parse_words
from runqy.errors import StackFailed
from runqy.stack import processes, terminal
from runqy.stack.deployments import DeploymentMonitor, list_enabled_queues
from runqy.stack.instance import Instance, mark_as_started, open_instance, server_environment, worker_environment
from runqy.stack.locks import FileLock, only_stack
from runqy.stack.ports import is_served, require_free_port
from runqy.stack.processes import run_command
from runqy.stack.queue_files import find_queue_files
from runqy.stack.stop_signals import Interrupted, StopSignals, catch_signals
from runqy.stack.supervisor import Supervisor
from runqy.stack.valkey import configure_valkey

HOST = "127.0.0.1"
_DEPLOYMENT_S = 300.0


def run_up() -> int:
    """Run the stack until a stop signal. Return the exit code."""
    with catch_signals() as stop:
        try:
            if not shutil.which("git"):
                raise StackFailed("git is not installed; the worker needs it to deploy code.")
            instance = open_instance()
            with only_stack(instance.home / "run", stop) as lock:
                _run(instance, lock, stop)
        except StackFailed as error:
            terminal.error(f"runqy up: {error}")
            return 1
        except Interrupted:
            return 130
    return 0


def _run(instance: Instance, lock: FileLock, stop: StopSignals) -> None:
    """Start everything, print the URLs, and supervise until a stop signal."""
    require_free_port(HOST, instance.port)
    files = find_queue_files(instance.home, stop)
    supervisor = Supervisor(stop, terminal.info, [lock.fd])
    try:
        target, redis_env = _start_redis(instance, supervisor)
        env = server_environment(instance, QUEUE_WORKERS_DIR=str(files.folder), **redis_env)
        _prepare(instance, env, stop)
        _start_server(instance, supervisor, env)
        enabled = {queue.name for queue in files.queues if queue.is_enabled} | list_enabled_queues(instance)
        env = worker_environment(instance)
        named = set(parse_words(env["RUNQY_QUEUES"]))
        served = enabled if "*" in named else enabled & named
        records = _start_worker(instance, supervisor, env, sorted(served), target)
        others = sorted(enabled - served)
        terminal.print_overview(instance, files.queues, records, folder=files.folder, others=others)
        mark_as_started(instance)
        supervisor.run()
        hint = (
            "; running tasks may finish, a second Ctrl-C returns them to their queues"
            if "worker" in supervisor.names
            else ""
        )
        terminal.info(f"Stopping: {', '.join(supervisor.names)}{hint} …")
    finally:
        supervisor.stop()
        instance.url_file.unlink(missing_ok=True)
    terminal.info("Stopped.")


def _start_redis(instance: Instance, supervisor: Supervisor) -> tuple[RedisTarget, dict[str, str]]:
    """Start the embedded Valkey, unless a Redis is configured. Return its target, and the variables that name it."""
    if settings.REDIS_IS_CONFIGURED:
        return settings.REDIS_TARGET, {}
    valkey = configure_valkey(instance.home, instance.log("valkey"))
    supervisor.start(valkey.spec, valkey.is_ready)
    env = {"REDIS_URL_FILE": str(valkey.url_file)}
    if settings.RUNQY_WORKER_REDIS_TARGET is settings.REDIS_TARGET:
        env["RUNQY_WORKER_REDIS_URL_FILE"] = str(valkey.worker_url_file)
    return valkey.target, env


def _prepare(instance: Instance, env: Mapping[str, str], stop: StopSignals) -> None:
    terminal.info("Preparing the database …")
    commands = processes.commands(
        ("migrate", "--no-input"),
        ("check_vault_keys",),
        ("ensure_admin", str(instance.home / "admin_password")),
        ("load_queues", env["QUEUE_WORKERS_DIR"]),
        env=env,
        log=instance.log("commands"),
    )
    run_command(commands, stop)


def _start_server(instance: Instance, supervisor: Supervisor, env: Mapping[str, str]) -> None:
    terminal.info(f"Starting the web server on port {instance.port} and maintenance …")
    bind = f"{HOST}:{instance.port}"
    supervisor.start(
        processes.web(bind=bind, env=env, log=instance.log("web")),
        lambda: is_served(HOST, instance.port),
    )
    instance.url_file.write_text(f"{instance.url}\n", "utf-8")
    supervisor.start(processes.maintenance(env=env, log=instance.log("maintenance")))


def _start_worker(
    instance: Instance, supervisor: Supervisor, env: Mapping[str, str], names: Sequence[str], target: RedisTarget
) -> dict[str, WorkerRecord]:
    """Start a worker and wait until it has deployed these queues or failed to. Return its records by queue."""
    is_first = not (instance.home / "deployments").exists()
    hint = "; the first start builds their environments" if is_first and names else ""
    terminal.info(f"Starting a worker{' for ' if names else ''}{', '.join(names)}{hint} …")
    with closing(DeploymentMonitor(target, names, terminal.info)) as deployments:
        shutdown_s = settings.env.seconds("RUNQY_SHUTDOWN_TIMEOUT", 30, help="of the worker, which declares it")
        worker = processes.worker(env=env, log=instance.log("worker"), shutdown_s=shutdown_s)
        supervisor.start(worker)
        supervisor.wait_until(deployments.are_settled, _DEPLOYMENT_S)
    return deployments.records
