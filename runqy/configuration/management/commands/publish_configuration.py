"""Publish the configuration."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from runqy.audit.actors import actor_context, command_actor
from runqy.configuration.operations import replace_configuration
from runqy.configuration.publishing import republish_configuration
from runqy.errors import BrokerUnavailable

_DIFFERENCES = {"outdated": "", "altered": "", "ahead": ", set back"}
"""Kinds of differences, and what only `--replace` does about them."""


class Command(BaseCommand):
    """`runqy manage publish_configuration [--replace]`"""

    help = "Publish the configuration of the database in Redis, as maintenance does every few seconds."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--replace",
            action="store_true",
            help="also replace newer or unknown documents in Redis: after the database was restored from a backup",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            with actor_context(command_actor("publish_configuration")):
                status = replace_configuration() if options["replace"] else republish_configuration()
        except BrokerUnavailable as error:
            raise CommandError(error.detail) from error
        for kind, outcome in _DIFFERENCES.items():
            if fields := getattr(status, kind):
                self.stdout.write(f"{kind}{outcome if options['replace'] else ''}: {', '.join(fields)}")
        if not options["replace"] and status.ahead:
            raise CommandError("Redis is ahead of the database; use --replace to publish the database's configuration.")
