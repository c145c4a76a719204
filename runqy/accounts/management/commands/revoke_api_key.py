"""Revoke an API key."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from runqy.accounts.operations import revoke_api_key
from runqy.audit.actors import actor_context, command_actor
from runqy.configuration.operations import NOT_PUBLISHED, publication_result
from runqy.errors import ApiKeyAlreadyRevoked, ApiKeyNotFound


class Command(BaseCommand):
    """`runqy manage revoke_api_key ID [--descendants] [--cancel-batches]`"""

    help = "Revoke an API key permanently. All servers refuse it within two seconds."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("id", type=int, help="id of the key, as shown by list_api_keys")
        parser.add_argument("--descendants", action="store_true", help="also revoke the keys that it created")
        parser.add_argument("--cancel-batches", action="store_true", help="also cancel the batches that it created")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            with actor_context(command_actor("revoke_api_key")), publication_result() as publication:
                revoked = revoke_api_key(
                    key_id=options["id"],
                    with_descendants=options["descendants"],
                    cancel_batches=options["cancel_batches"],
                )
        except (ApiKeyNotFound, ApiKeyAlreadyRevoked) as error:
            raise CommandError(error.detail) from error
        for row in (revoked.row, *revoked.revoked_descendants):
            self.stdout.write(f"revoked {row}")
        if revoked.accepted_descendants:
            named = ", ".join(f"{key.pk} {key}" for key in revoked.accepted_descendants)
            self.stderr.write(f"still accepted, created by this key: {named}; use --descendants to revoke them")
        if revoked.canceled_batches:
            self.stdout.write(f"batches that are being cancelled: {revoked.canceled_batches:,}")
        if revoked.waiting_members:
            waiting = f"members of its batches that wait and will be enqueued: {revoked.waiting_members:,}"
            self.stderr.write(f"{waiting}; use --cancel-batches to cancel them")
        if not publication.is_published:
            self.stderr.write(NOT_PUBLISHED)
