"""Print a new master key."""

from typing import Any

from django.core.management.base import BaseCommand

from vaults.crypto import generate_master_key


class Command(BaseCommand):
    """`runqy manage generate_vault_key`"""

    help = "Print a new master key for RUNQY_VAULT_MASTER_KEY. Keep a copy: without it no entry can be decrypted."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        """Print one line, for `export RUNQY_VAULT_MASTER_KEY=$(runqy manage generate_vault_key)`."""
        self.stdout.write(generate_master_key())
