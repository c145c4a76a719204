"""The options that all commands share."""

from typing import Annotated

import typer

from runqy.cli.completion import complete_profiles
from runqy.cli.output import Format

PANEL = "Options of all commands"


def shared_options(
    *,
    server: Annotated[
        str | None,
        typer.Option(
            "--server",
            "-s",
            metavar="URL",
            help="URL of the server, instead of RUNQY_SERVER_URL.",
            rich_help_panel=PANEL,
        ),
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            "--api-key",
            "-k",
            metavar="KEY",
            help="API key. Prefer RUNQY_API_KEY or a profile: other users can see command lines.",
            rich_help_panel=PANEL,
        ),
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(
            "--profile",
            metavar="NAME",
            help="Server and key that `runqy login` saved, instead of RUNQY_PROFILE.",
            autocompletion=complete_profiles,
            rich_help_panel=PANEL,
        ),
    ] = None,
    output: Annotated[
        Format | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FORMAT",
            help="json, yaml, name or wide.",
            rich_help_panel=PANEL,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as -o json.", rich_help_panel=PANEL)] = False,
) -> None:
    """Declare the options. Their values are read by `targets.Flags.of`."""
