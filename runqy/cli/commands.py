"""How commands are declared: the options that all share, what a command is given, and how an error ends it."""

import inspect
from collections.abc import Callable, Sequence
from functools import cached_property, wraps
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from runqy.cli import targets
from runqy.cli.errors import CliError, ExitCode, ServerError
from runqy.cli.options import shared_options
from runqy.cli.output import Printer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runqy.cli.client import Client
    from runqy_sdk.client.models import Event

Function = TypeVar("Function", bound=Callable[..., None])

_NOT_PUBLISHED = (
    "Saved, but not published: Redis is unavailable. Servers that reach the database apply the change within "
    "seconds. It is published when Redis is available again."
)
_WRONG_SERVER_CODES = ("unreachable", "no_server")
_NO_KEY = "No API key: use `runqy login`, set RUNQY_API_KEY, or run the command in the folder that contains .runqy."


class Session:
    """What a command works with: the options of all commands, the server, and how to print."""

    def __init__(self, context: typer.Context) -> None:
        self.flags = targets.Flags.of(context)
        self.out = Printer(self.flags.format)

    @cached_property
    def target(self) -> targets.Target:
        return targets.find_target(self.flags)

    @cached_property
    def api(self) -> "Client":
        """The client of the server. Commands that do not use it make no connection."""
        return targets.make_client(self.target.url, self.target.key)

    def follow(self, path: str, **query: str | int) -> "Iterator[Event]":
        """Yield the events of a task or batch until its end. Ctrl-C ends the command. Raise ServerError."""
        try:
            yield from self.api.follow(path, self.out.note, **query)
        except KeyboardInterrupt:
            self.out.note("Interrupted; the work continues.")
            raise typer.Exit(ExitCode.INTERRUPTED) from None

    def close(self) -> None:
        if "api" in vars(self):
            if self.api.has_unpublished:
                self.out.note(_NOT_PUBLISHED)
            self.api.close()

    def explain(self, error: CliError) -> None:
        """Print an error, and where the address is from if the server seems to be the wrong one."""
        is_unauthorized = isinstance(error, ServerError) and error.status == HTTPStatus.UNAUTHORIZED
        self.out.note(_NO_KEY if is_unauthorized and not self.target.key else str(error))
        if not isinstance(error, ServerError) or not self.target.hint:
            return
        refuses_kept_key = is_unauthorized and self.target.key and not self.target.has_given_key
        if error.code in _WRONG_SERVER_CODES or refuses_kept_key:
            self.out.note(self.target.hint)


class Command(TyperCommand):
    """A command whose help ends with examples."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _write_parameters(self, ctx, formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        _write_examples(self.epilog, formatter)


class Group(TyperGroup):
    """A group of commands whose help ends with examples."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        self.format_commands(ctx, formatter)
        _write_parameters(self, ctx, formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        _write_examples(self.epilog, formatter)


def new_group(help_text: str, *, examples: str) -> typer.Typer:
    """Return an empty group. The options of all commands may also stand before the name of its command."""
    app = typer.Typer(cls=Group, no_args_is_help=True, epilog=examples)
    app.callback(help=help_text)(shared_options)
    return app


def command(app: typer.Typer, name: str, *, examples: str) -> Callable[[Function], Function]:
    """Add a function to a group as a command. The function's first parameter is the Session.

    `examples` are whole command lines, one a line.
    """

    def add(function: Function) -> Function:
        app.command(name, cls=Command, epilog=examples)(_with_session(function))
        return function

    return add


def add_shared_options(function: Callable[..., None], own: Sequence[inspect.Parameter]) -> Callable[..., None]:
    """Return a function with these parameters and the shared options, for typer to read. It is not given the latter."""
    shared = inspect.signature(shared_options, eval_str=True).parameters

    def run(**values: Any) -> None:
        function(**{name: value for name, value in values.items() if name not in shared})

    parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in (*own, *shared.values())]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined] # functions may have one
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    run.__name__, run.__doc__ = function.__name__, function.__doc__
    return run


def _with_session(function: Callable[..., None]) -> Callable[..., None]:
    """Return a function that typer calls with a context, and that passes a session on."""

    @wraps(function)
    def run(*, context: typer.Context, **values: Any) -> None:
        session = Session(context)
        try:
            function(session, **values)
        except CliError as error:
            session.explain(error)
            raise typer.Exit(error.exit_code) from error
        finally:
            session.close()

    _, *own = inspect.signature(function, eval_str=True).parameters.values()
    context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    return add_shared_options(run, (context, *own))


def _write_parameters(command: Any, ctx: Any, formatter: Any) -> None:
    """Write arguments and options. The options of all commands are in a section of their own, at the end."""
    sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
    for parameter in command.get_params(ctx):
        if record := parameter.get_help_record(ctx):
            is_argument = parameter.param_type_name == "argument"
            title = getattr(parameter, "rich_help_panel", None) or ("Arguments" if is_argument else "Options")
            sections.setdefault(title, []).append(record)
    for title, records in sections.items():
        if records:
            with formatter.section(title):
                formatter.write_dl(records)


def _write_examples(examples: str | None, formatter: Any) -> None:
    # Not folded: a reader copies them.
    if examples:
        formatter.write_paragraph()
        formatter.write_heading("Examples")
        for line in examples.strip().splitlines():
            formatter.write(f"  {line.strip()}\n")
