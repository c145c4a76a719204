"""Create an API key."""

from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from runqy.accounts.operations import create_api_key
from runqy.audit.actors import actor_context, command_actor
from runqy.configuration.operations import NOT_PUBLISHED, publication_result
from runqy.core.api_keys import Role
from runqy.core.formats import durations
from runqy.errors import ApiKeyInvalid


class Command(BaseCommand):
    """Create an API key.

    `runqy manage create_api_key NAME [--role ROLE] [--queue QUEUE ...] [--vault VAULT ...] [--expires-in 720h]
    [--rate-limit 600/m] [--allow-shared-redis]`
    """

    help = "Create an API key and print it. It cannot be shown again."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", help="name of the key, such as its user or program")
        parser.add_argument("--role", choices=[role.value for role in Role], default=Role.CLIENT.value)
        parser.add_argument(
            "--queue",
            action="append",
            default=[],
            help="limit the key to this queue, with all its sub-queues; repeatable",
        )
        parser.add_argument("--vault", action="append", default=[], help="limit a worker key to this vault; repeatable")
        parser.add_argument(
            "--expires-in", type=durations.parse_s, help="duration until the key expires, such as 720h; default: never"
        )
        parser.add_argument("--rate-limit", default="", help="such as 600/m; default: RUNQY_RATE_LIMIT")
        parser.add_argument(
            "--allow-shared-redis",
            action="store_true",
            help="give Go's workers of a key with --queue Redis credentials that reach the tasks of all queues",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        expires_in = options["expires_in"]
        expires_at = timezone.now() + timedelta(seconds=expires_in) if expires_in is not None else None
        try:
            with actor_context(command_actor("create_api_key")), publication_result() as publication:
                created = create_api_key(
                    name=options["name"],
                    role=options["role"],
                    queues=options["queue"],
                    vaults=options["vault"],
                    expires_at=expires_at,
                    rate_limit=options["rate_limit"],
                    allow_shared_redis=options["allow_shared_redis"],
                )
        except ApiKeyInvalid as error:
            raise CommandError(error.detail) from error
        # Only the key on standard output, so that a script can store it.
        self.stdout.write(created.plain)
        pk = created.row.pk
        self.stderr.write(f"id {pk}; `runqy manage revoke_api_key {pk}` revokes the key", style_func=str)
        for warning in created.warnings:
            self.stderr.write(warning)
        if not publication.is_published:
            self.stderr.write(NOT_PUBLISHED)
