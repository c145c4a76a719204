"""Show the master keys that the vaults are encrypted with."""

import json
from argparse import ArgumentParser
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from runqy.errors import RunqyError
from vaults.status import KeyUse, VaultStatus, get_vault_status


class Command(BaseCommand):
    """`runqy manage vault_status [--json]`"""

    help = "Show the number of entries by master key, and whether the published copies agree."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="output JSON on one line")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            status = get_vault_status()
        except RunqyError as error:
            raise CommandError(error.detail) from error
        if options["json"]:
            self.stdout.write(json.dumps(asdict(status) | {"removable": status.removable}, default=_isoformat))
        else:
            self._report(status)

    def _report(self, status: VaultStatus) -> None:
        self.stdout.write(f"{status.vaults} vaults, {status.entries} entries")
        for use in status.keys:
            since = f", the oldest of {use.oldest:%Y-%m-%d %H:%M} UTC" if use.oldest else ""
            secrets = f", {use.secrets} secrets of webhooks" if use.secrets else ""
            self.stdout.write(f"key {use.key_id} ({_key_status(use, status)}): {use.entries} entries{secrets}{since}")
        if status.published == "unreachable":
            self.stdout.write("published copies: Redis is unavailable")
        else:
            names = f": {', '.join(status.differing)}" if status.differing else ""
            self.stdout.write(f"published copies: {'differ' if names else 'agree'}{names}")


def _key_status(use: KeyUse, status: VaultStatus) -> str:
    if use.is_first:
        return "encrypts"
    if not use.is_known:
        return "MISSING in RUNQY_VAULT_MASTER_KEY"
    return "not used, can be removed" if use.key_id in status.removable else "old, run rotate_vault_key"


def _isoformat(value: Any) -> str:
    text: str = value.isoformat()
    return text
