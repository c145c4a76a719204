"""Revokes an API key."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from runqy.accounts.operations import revoke_api_key
from runqy.audit.actors import actor_context, command_actor
from runqy.errors import ApiKeyAlreadyRevoked, ApiKeyNotFound
from runqy.publication.operations import NOT_PUBLISHED, publication_result


class Command(BaseCommand):
    """`manage.py revoke_api_key ID [--descendants]`"""

    help = "Revoke an API key, for good; every server refuses it within two seconds."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Name the key."""
        parser.add_argument("id", type=int, help="as list_api_keys shows it")
        parser.add_argument("--descendants", action="store_true", help="also the keys that it created")

    def handle(self, *args: Any, **options: Any) -> None:
        """Revoke it, and print which it was."""
        try:
            with actor_context(command_actor("revoke_api_key")), publication_result() as publication:
                revoked = revoke_api_key(key_id=options["id"], with_descendants=options["descendants"])
        except (ApiKeyNotFound, ApiKeyAlreadyRevoked) as error:
            raise CommandError(error.detail) from error
        for row in (revoked.row, *revoked.revoked_descendants):
            self.stdout.write(f"revoked {row}")
        if revoked.accepted_descendants:
            named = ", ".join(f"{key.pk} {key}" for key in revoked.accepted_descendants)
            self.stderr.write(f"still accepted, created by it: {named}; --descendants revokes them")
        if not publication.is_published:
            self.stderr.write(NOT_PUBLISHED)
