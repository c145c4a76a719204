"""Decrypt every entry of every vault."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from runqy.errors import RunqyError
from vaults.models import VaultEntry
from vaults.status import verify_entries


class Command(BaseCommand):
    """`runqy manage verify_vaults`"""

    help = "Decrypt every vault entry, in the database and as published, and report those that fail."

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            errors = verify_entries()
        except RunqyError as error:
            raise CommandError(error.detail) from error
        if errors:
            raise CommandError("\n".join(errors))
        self.stdout.write(
            f"All {VaultEntry.objects.count()} entries can be decrypted, in the database and as published."
        )
