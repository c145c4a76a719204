"""Write a vault to standard output, as lines of a .env file."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from runqy.audit.actors import actor_context, command_actor
from runqy.errors import RunqyError
from vaults.operations import export_vault


class Command(BaseCommand):
    """`runqy manage export_vault NAME`"""

    help = "Write a vault with all its values to standard output, as lines of a .env file. Recorded in the audit."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", help="the name of the vault")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            with actor_context(command_actor("export_vault")):
                self.stdout.write(export_vault(name=options["name"]), ending="")
        except RunqyError as error:
            raise CommandError(error.detail) from error
