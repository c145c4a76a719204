"""The passphrase of an export, from a file or prompted for, never from the command line."""

import getpass
import sys
from argparse import ArgumentParser
from pathlib import Path

from django.core.management.base import CommandError

from runqy.errors import PassphraseRefused
from vaults.export_file import check_passphrase


def add_passphrase_option(parser: ArgumentParser) -> None:
    """Add `--passphrase-file`. `--passphrase=…` is rejected, not read as an abbreviation of it."""
    parser.allow_abbrev = False
    parser.add_argument(
        "--passphrase-file",
        metavar="FILE",
        help="the file whose first line is the passphrase, - for standard input; prompted for without it",
    )


def read_passphrase(path: str | None, *, is_new: bool) -> str:
    """Return the passphrase; a new one is entered twice. Raise CommandError."""
    passphrase = _prompt(is_new) if path is None else _first_line(path)
    try:
        check_passphrase(passphrase)
    except PassphraseRefused as error:
        raise CommandError(error.detail) from error
    return passphrase


def _prompt(is_new: bool) -> str:
    """Return the passphrase entered at the terminal. Raise CommandError."""
    if not sys.stdin.isatty():
        raise CommandError("No terminal to enter a passphrase: use --passphrase-file.")
    passphrase = getpass.getpass("Passphrase: ")
    if is_new and getpass.getpass("Passphrase again: ") != passphrase:
        raise CommandError("The passphrases do not match.")
    return passphrase


def _first_line(path: str) -> str:
    """Return the first line of a file, or of standard input. Raise CommandError."""
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise CommandError(f"The passphrase in {path} cannot be read: {reason}.") from error
    return text.split("\n", 1)[0].rstrip("\r")
