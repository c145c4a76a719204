"""Asks for the passphrase of an export: from a file or from the keyboard, never from the command line."""

import getpass
import sys
from argparse import ArgumentParser
from pathlib import Path

from django.core.management.base import CommandError

from runqy.errors import PassphraseRefused
from vaults.export_file import check_passphrase


def add_passphrase_option(parser: ArgumentParser) -> None:
    """Let the passphrase come from a file. `--passphrase=…` is not taken for the start of this option."""
    parser.allow_abbrev = False
    parser.add_argument(
        "--passphrase-file",
        metavar="FILE",
        help="the file whose first line is the passphrase, - for standard input; asked for without it",
    )


def read_passphrase(path: str | None, *, is_new: bool) -> str:
    """Return the passphrase, a new one typed twice. Raises CommandError."""
    passphrase = _typed(is_new) if path is None else _first_line(path)
    try:
        check_passphrase(passphrase)
    except PassphraseRefused as error:
        raise CommandError(error.detail) from error
    return passphrase


def _typed(is_new: bool) -> str:
    """Return what is typed without an echo. Raises CommandError."""
    if not sys.stdin.isatty():
        raise CommandError("There is no terminal to type a passphrase at: use --passphrase-file.")
    passphrase = getpass.getpass("Passphrase: ")
    if is_new and getpass.getpass("The same again: ") != passphrase:
        raise CommandError("The two are not the same.")
    return passphrase


def _first_line(path: str) -> str:
    """Return the first line of a file. Raises CommandError."""
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise CommandError(f"The passphrase in {path} cannot be read: {reason}.") from error
    return text.split("\n", 1)[0].rstrip("\r")
