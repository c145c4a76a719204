"""The reference of the command lines, from the commands themselves."""

from collections.abc import Iterator
from typing import Any

import typer
from django.core.management import BaseCommand, get_commands, load_command_class

from runqy.cli.main import app
from runqy.cli.options import PANEL
from runqy.core.environment.own_packages import APPS
from tools.documentation.django_setup import set_up_django
from tools.documentation.tables import cell, table
from workers.runtime.main import app as worker_app

set_up_django()

_OURS = ("runqy.", *APPS)


def runqy_commands() -> str:
    command = typer.main.get_command(app)
    return "\n\n".join(_describe(command, typer.Context(command), "runqy"))


def worker_command() -> str:
    command = typer.main.get_command(worker_app)
    return _options(command, typer.Context(command, info_name="runqy-worker"))


def management_commands() -> str:
    """Return a table of the management commands that are ours, with their arguments."""
    names = [name for name, package in get_commands().items() if package.startswith(_OURS)]
    commands = [(name, load_command_class(get_commands()[name], name)) for name in sorted(names)]
    rows = [(f"`{_usage(name, command)}`", _escaped(command.help)) for name, command in commands]
    return table(("command", "description"), rows)


def _describe(command: Any, context: typer.Context, name: str) -> Iterator[str]:
    """Yield the sections of a command, or of those of a group, in the order of their help."""
    if hasattr(command, "commands"):
        for word in command.list_commands(context):
            child = command.commands[word]
            if not child.hidden:
                label = f"{name} {word}"
                yield from _describe(child, typer.Context(child, info_name=label), label)
        return
    words = " ".join(["`" + name, *command.collect_usage_pieces(context)]) + "`"
    yield f"### {name}\n\n{_escaped(command.help or '')}\n\n{words}"
    if options := _options(command, context):
        yield options
    if command.epilog:
        yield f"```bash\n{command.epilog.strip()}\n```"


def _options(command: Any, context: typer.Context) -> str:
    own = [parameter for parameter in command.params if getattr(parameter, "rich_help_panel", None) != PANEL]
    records = [parameter.get_help_record(context) for parameter in own]
    rows = [(f"`{cell(record[0])}`", _escaped(record[1])) for record in records if record]
    return table(("option", "meaning"), rows) if rows else ""


def _usage(name: str, command: Any) -> str:
    """Return a command with its own arguments, without those that all management commands have."""
    general = {action.dest for action in BaseCommand().create_parser("manage.py", name)._actions}  # noqa: SLF001 (argparse has no public list)
    parser = command.create_parser("manage.py", name)
    pieces = [
        _piece(action)
        for action in parser._actions  # noqa: SLF001 (argparse has no public list of arguments)
        if action.dest not in general
    ]
    return " ".join([name, *pieces])


def _piece(action: Any) -> str:
    value = action.metavar or action.dest.upper()
    if not action.option_strings:
        return str(value)
    text = f"{action.option_strings[-1]} {value}" if action.nargs != 0 else action.option_strings[-1]
    return text if action.required else f"[{text}]"


def _escaped(text: str) -> str:
    return cell(text).replace("<", "&lt;")
