"""Shows which master keys the vaults are under."""

import json
from argparse import ArgumentParser
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from runqy.errors import RunqyError
from vaults.inspection import KeyUse, VaultStatus, find_vault_status


class Command(BaseCommand):
    """`manage.py vault_status [--json]`"""

    help = "Show how many entries are under which master key, and whether the published copies agree."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Let programs read it."""
        parser.add_argument("--json", action="store_true", help="as JSON, on one line")

    def handle(self, *args: Any, **options: Any) -> None:
        """Print it."""
        try:
            status = find_vault_status()
        except RunqyError as error:
            raise CommandError(error.detail) from error
        if options["json"]:
            self.stdout.write(json.dumps(asdict(status) | {"removable": status.removable}, default=_moment))
        else:
            self._tell(status)

    def _tell(self, status: VaultStatus) -> None:
        """Print it for people."""
        self.stdout.write(f"{status.vaults} vaults, {status.entries} entries")
        for use in status.keys:
            since = f", the oldest of {use.oldest:%Y-%m-%d %H:%M} UTC" if use.oldest else ""
            self.stdout.write(f"key {use.key_id} ({_standing(use, status)}): {use.entries} entries{since}")
        if status.published == "unreachable":
            self.stdout.write("published copies: Redis cannot be reached")
        else:
            names = f": {', '.join(status.differing)}" if status.differing else ""
            self.stdout.write(f"published copies: {'differ' if names else 'agree'}{names}")


def _standing(use: KeyUse, status: VaultStatus) -> str:
    """Say what a key is there for."""
    if use.is_first:
        return "encrypts"
    if not use.is_known:
        return "MISSING in RUNQY_VAULT_MASTER_KEY"
    return "not used, can be removed" if use.key_id in status.removable else "old, run rotate_vault_key"


def _moment(value: Any) -> str:
    """Spell a moment."""
    spelled: str = value.isoformat()
    return spelled
