"""Export a vault to a file."""

import os
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from runqy.audit.actors import actor_context, command_actor
from runqy.errors import RunqyError
from vaults.export_import import export_vault
from vaults.management.passphrases import add_passphrase_option, read_passphrase


class Command(BaseCommand):
    """`manage.py export_vault NAME --output FILE`"""

    help = "Export a vault with all its values to a file that is encrypted with a passphrase."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", help="the name of the vault")
        parser.add_argument(
            "--output", required=True, metavar="FILE", help="the file to create, readable by its owner only"
        )
        add_passphrase_option(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        passphrase = read_passphrase(options["passphrase_file"], is_new=True)
        try:
            with actor_context(command_actor("export_vault")):
                content = export_vault(name=options["name"], passphrase=passphrase)
        except RunqyError as error:
            raise CommandError(error.detail) from error
        _write(options["output"], content)
        self.stdout.write(f"The vault {options['name']} was exported to {options['output']}.")


def _write(path: str, content: bytes) -> None:
    """Write a new file. Raise CommandError if it exists."""
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror}.") from error
