"""Encrypt all entries with the first master key."""

from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Iterable, Iterator
from typing import Any

from django.core.management.base import BaseCommand, CommandError, OutputWrapper

from runqy.audit.actors import actor_context, command_actor
from runqy.configuration.publishing import republish_configuration
from runqy.errors import BrokerUnavailable, RunqyError
from vaults.rotation import BATCH, RotationBatch, count_outdated, rotate_entries
from vaults.status import get_vault_status


class Command(BaseCommand):
    """`runqy manage rotate_vault_key [--dry-run] [--batch N]`"""

    help = (
        "Encrypt all vault entries with the first key of RUNQY_VAULT_MASTER_KEY. First restart every server process "
        "with the new key before the old one. It can be interrupted and run again at any time."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="only decrypt the entries; change nothing")
        parser.add_argument(
            "--batch", type=_size, default=BATCH, metavar="N", help="entries per transaction (default: 50)"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            with actor_context(command_actor("rotate_vault_key")):
                self._rotate(is_dry_run=options["dry_run"], batch=options["batch"])
        except RunqyError as error:
            raise CommandError(error.detail) from error
        except KeyboardInterrupt as error:
            raise CommandError("Interrupted. Finished batches are kept; run the command again to continue.") from error

    def _rotate(self, *, is_dry_run: bool, batch: int) -> None:
        total = count_outdated()
        batches = rotate_entries(batch=batch, dry_run=is_dry_run)
        rotated, errors = 0, list[str]()
        for result in _with_progress(batches, total=total, out=self.stdout):
            rotated += result.rotated
            errors += result.errors
            for error in result.errors:
                self.stderr.write(error)
        if is_dry_run:
            self.stdout.write(f"{rotated} entries would be encrypted with the first key; nothing was changed.")
        else:
            self.stdout.write(f"{rotated} entries were encrypted with the first key.")
            self._report_keys()
        if errors:
            raise CommandError(f"{len(errors)} entries cannot be decrypted and are unchanged; see above.")

    def _report_keys(self) -> None:
        """Update the published copies, and report which keys can be removed. Raise CommandError."""
        try:
            republish_configuration()
        except BrokerUnavailable as error:
            raise CommandError(
                f"{error.detail} Its copies may still need the old keys: keep them, and run the command again."
            ) from error
        status = get_vault_status()
        for use in status.keys:
            needed = max(use.entries, use.published) + use.secrets
            if not use.is_first and needed:
                self.stdout.write(f"The key {use.key_id} is still needed by {needed} entries.")
        for key_id in status.removable:
            self.stdout.write(f"The key {key_id} is no longer used: remove it from RUNQY_VAULT_MASTER_KEY.")


def _with_progress(batches: Iterable[RotationBatch], *, total: int, out: OutputWrapper) -> Iterator[RotationBatch]:
    """Yield the batches, and write a line after each tenth of all entries."""
    seen, reported = 0, 0
    for batch in batches:
        seen += batch.seen
        tenth = seen * 10 // max(total, 1)
        if tenth > reported:
            reported = tenth
            out.write(f"{seen} of {total} entries")
            out.flush()
        yield batch


def _size(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text[:9]) <= 1000:
        raise ArgumentTypeError("Must be a number from 1 to 1000.")
    return int(text)
