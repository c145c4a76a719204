"""Questions on the terminal."""

import sys
from collections.abc import Callable
from typing import Annotated

import typer

from runqy.cli.errors import CliError, ExitCode
from runqy.cli.values import clean

Force = Annotated[bool, typer.Option("--force", help="Do not ask. Required without a terminal.")]


def is_interactive() -> bool:
    return sys.stdin.isatty()


def confirm(question: str | Callable[[], str], *, force: bool) -> None:
    """Ask whether to go on. Raise CliError if the user refuses, or without a terminal and `force`.

    A question that needs requests is a function, which is only called to ask.
    """
    if force:
        return
    if not is_interactive():
        raise CliError("This needs a confirmation. Use --force without a terminal.", ExitCode.USAGE)
    # On standard error, so that the output can be redirected.
    if not typer.confirm(clean(question if isinstance(question, str) else question()), err=True):
        raise CliError("Nothing was changed.")


def read_secret(prompt: str) -> str:
    """Return what is typed without being shown, or standard input without its last line break."""
    if is_interactive():
        typed: str = typer.prompt(prompt, hide_input=True, err=True)
        return typed
    return sys.stdin.read().removesuffix("\n").removesuffix("\r")
