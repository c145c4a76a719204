"""Makes a vault of a file."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from runqy.audit.actors import actor_context, command_actor
from runqy.errors import RunqyError
from vaults.export_file import FILE_MAX_BYTES
from vaults.management.passphrases import add_passphrase_option, read_passphrase
from vaults.queries import Outcome
from vaults.transfer import Import, import_vault, preview_import


class Command(BaseCommand):
    """`manage.py import_vault FILE [--name NAME] [--replace] [--dry-run]`"""

    help = "Make a vault as a file of export_vault says, all of it or nothing."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Name the file and the vault."""
        parser.add_argument("file", metavar="FILE", help="what export_vault wrote")
        parser.add_argument("--name", default="", help="of the vault, if not as in the file")
        parser.add_argument("--replace", action="store_true", help="a vault that is there; what the file lacks goes")
        parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
        add_passphrase_option(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        """Import it, and say what was done to each entry."""
        content = _content(options["file"])
        passphrase = read_passphrase(options["passphrase_file"], is_new=False)
        told = {"content": content, "passphrase": passphrase, "name": options["name"]}
        try:
            with actor_context(command_actor("import_vault")):
                done = (
                    preview_import(**told) if options["dry_run"] else import_vault(**told, replace=options["replace"])
                )
        except RunqyError as error:
            raise CommandError("\n".join(error.errors)) from error
        self._tell(done, is_rehearsal=options["dry_run"])

    def _tell(self, done: Import, *, is_rehearsal: bool) -> None:
        """Print what was or would be done, by names."""
        for entry in done.entries:
            if entry.outcome != Outcome.UNCHANGED:
                self.stdout.write(f"{entry.outcome}: {entry.key}")
        unchanged = len(done.keys(Outcome.UNCHANGED))
        ending = "Nothing was changed." if is_rehearsal else "It is published."
        self.stdout.write(f"{'New' if done.is_new else 'Existing'} vault {done.vault}, {unchanged} unchanged. {ending}")


def _content(path: str) -> bytes:
    """Return what is in a file, no more than an export may have and a byte. Raises CommandError."""
    try:
        with Path(path).open("rb") as file:
            return file.read(FILE_MAX_BYTES + 1)
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}.") from error
