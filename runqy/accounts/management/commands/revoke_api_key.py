"""Revokes an API key."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from runqy.accounts.operations import revoke_api_key
from runqy.audit.actors import actor_context, command_actor
from runqy.errors import ApiKeyAlreadyRevoked, ApiKeyNotFound


class Command(BaseCommand):
    """`manage.py revoke_api_key ID`"""

    help = "Revoke an API key, for good; every server refuses it within a second."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Name the key."""
        parser.add_argument("id", type=int, help="as list_api_keys shows it")

    def handle(self, *args: Any, **options: Any) -> None:
        """Revoke it, and say which it was."""
        try:
            with actor_context(command_actor("revoke_api_key")):
                revoked = revoke_api_key(key_id=options["id"])
        except (ApiKeyNotFound, ApiKeyAlreadyRevoked) as error:
            raise CommandError(error.detail) from error
        self.stdout.write(f"revoked {revoked}")
