"""Encrypts all entries with the first master key."""

from argparse import ArgumentParser, ArgumentTypeError
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from runqy.audit.actors import actor_context, command_actor
from runqy.errors import BrokerUnavailable, RunqyError
from runqy.publication.republishing import republish_configuration
from vaults.inspection import find_vault_status
from vaults.management.progress import shown
from vaults.rotation import BATCH, Step, count_outdated, rehearse_rotation, rotate_entries


class Command(BaseCommand):
    """`manage.py rotate_vault_key [--dry-run] [--batch N]`"""

    help = (
        "Encrypt all vault entries with the first key of RUNQY_VAULT_MASTER_KEY. First restart every server process "
        "with the new key in front of the old one. It may be stopped and run again at any time."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take how to go about it."""
        parser.add_argument("--dry-run", action="store_true", help="open everything that would be done, change nothing")
        parser.add_argument("--batch", type=_size, default=BATCH, metavar="N", help="entries in a transaction (50)")

    def handle(self, *args: Any, **options: Any) -> None:
        """Rotate, and say what was done and which keys nothing needs any more."""
        try:
            with actor_context(command_actor("rotate_vault_key")):
                self._rotate(is_rehearsal=options["dry_run"], batch=options["batch"])
        except RunqyError as error:
            raise CommandError(error.detail) from error
        except KeyboardInterrupt as error:
            raise CommandError("Stopped. What was done stays; run it again to go on.") from error

    def _rotate(self, *, is_rehearsal: bool, batch: int) -> None:
        """Go through the entries. Raises CommandError when something did not open."""
        total = count_outdated()
        steps = rehearse_rotation(batch=batch) if is_rehearsal else rotate_entries(batch=batch)
        rotated, problems = 0, list[str]()
        for step in shown(steps, total=total, out=self.stdout):
            rotated += step.rotated
            problems += step.problems
            self._complain(step)
        if is_rehearsal:
            self.stdout.write(f"{rotated} entries would be encrypted with the first key; nothing was changed.")
        else:
            self.stdout.write(f"{rotated} entries were encrypted with the first key.")
            self._tell_keys()
        if problems:
            raise CommandError(f"{len(problems)} entries do not open and stay as they are; see above.")

    def _complain(self, step: Step) -> None:
        """Name what does not open."""
        for problem in step.problems:
            self.stderr.write(problem)

    def _tell_keys(self) -> None:
        """Make the published copies agree, and say which keys can be removed. Raises CommandError."""
        try:
            republish_configuration()
        except BrokerUnavailable as error:
            raise CommandError(
                f"{error.detail} Its copies may still be under the old keys: keep those, and run this again."
            ) from error
        status = find_vault_status()
        for use in status.keys:
            if not use.is_first and (use.entries or use.published):
                self.stdout.write(f"The key {use.key_id} is still needed by {max(use.entries, use.published)} entries.")
        for key_id in status.removable:
            self.stdout.write(f"The key {key_id} is not used any more: take it out of RUNQY_VAULT_MASTER_KEY.")


def _size(text: str) -> int:
    """Read how many entries a transaction has."""
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text[:9]) <= 1000:
        raise ArgumentTypeError("It is a number from 1 to 1000.")
    return int(text)
