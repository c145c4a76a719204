"""Publishes the configuration."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from runqy.audit.actors import actor_context, command_actor
from runqy.errors import BrokerUnavailable
from runqy.publication.republishing import replace_configuration, republish_configuration

_DIFFERENCES = {"outdated": "", "refused": "", "ahead": ", set back", "unknown": " to the database, removed"}
"""How Redis differed, and what `--replace` did about it that is not done otherwise."""


class Command(BaseCommand):
    """`manage.py publish_configuration [--replace]`"""

    help = "Make Redis agree with the database, as maintenance does every few seconds."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Say what to do where Redis is newer."""
        parser.add_argument(
            "--replace",
            action="store_true",
            help="also where Redis is newer or knows more: after the database was restored from a backup",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Publish, and say what differed."""
        try:
            with actor_context(command_actor("publish_configuration")):
                comparison = replace_configuration() if options["replace"] else republish_configuration()
        except BrokerUnavailable as error:
            raise CommandError(error.detail) from error
        for what, done in _DIFFERENCES.items():
            if places := getattr(comparison, what):
                self.stdout.write(f"{what}{done if options['replace'] else ''}: {', '.join(places)}")
        if comparison.head_problem:
            self.stdout.write(f"head: {comparison.head_problem.value}")
        if not options["replace"] and comparison.is_ahead:
            raise CommandError("Redis is ahead of the database; --replace makes it say what the database says.")
