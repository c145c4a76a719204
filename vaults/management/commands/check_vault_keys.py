"""Print a warning if the server lacks a master key."""

from typing import Any

from django.core.management.base import BaseCommand

from vaults.queries import find_key_error


class Command(BaseCommand):
    """Print which master keys of vault entries are not in RUNQY_VAULT_MASTER_KEY; `runqy serve` runs it."""

    help = "Warn if vault entries were encrypted with a key that is not in RUNQY_VAULT_MASTER_KEY."

    def handle(self, *args: Any, **options: Any) -> None:
        if error := find_key_error():
            self.stderr.write(error)
