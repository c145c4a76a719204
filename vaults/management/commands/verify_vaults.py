"""Opens every entry of every vault."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from runqy.errors import RunqyError
from vaults.inspection import find_unopened
from vaults.models import VaultEntry


class Command(BaseCommand):
    """`manage.py verify_vaults`"""

    help = "Open every vault entry, in the database and as it is published, and name what does not open."

    def handle(self, *args: Any, **options: Any) -> None:
        """Open them."""
        try:
            problems = find_unopened()
        except RunqyError as error:
            raise CommandError(error.detail) from error
        if problems:
            raise CommandError("\n".join(problems))
        self.stdout.write(f"All {VaultEntry.objects.count()} entries open, in the database and as published.")
