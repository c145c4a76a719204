"""Import a vault from a file."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from runqy.audit.actors import actor_context, command_actor
from runqy.errors import RunqyError
from vaults.export_file import FILE_MAX_BYTES
from vaults.export_import import VaultImport, import_vault, preview_import
from vaults.management.passphrases import add_passphrase_option, read_passphrase
from vaults.queries import PreviewOutcome


class Command(BaseCommand):
    """`manage.py import_vault FILE [--name NAME] [--replace] [--dry-run]`"""

    help = "Create or replace a vault from a file of export_vault, in one transaction."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", metavar="FILE", help="a file of export_vault")
        parser.add_argument("--name", default="", help="the name of the vault; default: the name in the file")
        parser.add_argument(
            "--replace",
            action="store_true",
            help="replace an existing vault; entries that are not in the file are deleted",
        )
        parser.add_argument("--dry-run", action="store_true", help="only report the changes")
        add_passphrase_option(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        content = _content(options["file"])
        passphrase = read_passphrase(options["passphrase_file"], is_new=False)
        arguments = {"content": content, "passphrase": passphrase, "name": options["name"]}
        try:
            with actor_context(command_actor("import_vault")):
                done = (
                    preview_import(**arguments)
                    if options["dry_run"]
                    else import_vault(**arguments, replace=options["replace"])
                )
        except RunqyError as error:
            raise CommandError("\n".join(error.errors)) from error
        self._report(done, is_dry_run=options["dry_run"])

    def _report(self, done: VaultImport, *, is_dry_run: bool) -> None:
        """Print the changes by key."""
        for entry in done.entries:
            if entry.outcome != PreviewOutcome.UNCHANGED:
                self.stdout.write(f"{entry.outcome}: {entry.key}")
        unchanged = len(done.keys(PreviewOutcome.UNCHANGED))
        ending = "Nothing was changed." if is_dry_run else "It is published."
        self.stdout.write(f"{'New' if done.is_new else 'Existing'} vault {done.vault}, {unchanged} unchanged. {ending}")


def _content(path: str) -> bytes:
    """Return the content of a file, at most one byte more than an export can have. Raise CommandError."""
    try:
        with Path(path).open("rb") as file:
            return file.read(FILE_MAX_BYTES + 1)
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}.") from error
