"""Loads queue files."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from queues.loading import load_queue_files
from runqy.audit.actors import actor_context, command_actor


class Command(BaseCommand):
    """`manage.py load_queues [DIRECTORY] [--prune [--force]]`"""

    help = "Add and change queues as the YAML files of a directory say."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Name the directory, and what is to happen with queues that are in no file."""
        parser.add_argument("directory", nargs="?", type=Path, default=settings.QUEUE_WORKERS_DIR)
        parser.add_argument("--prune", action="store_true", help="remove queues that vanished from the files")
        parser.add_argument("--force", action="store_true", help="with --prune: also queues whose tasks wait or run")

    def handle(self, *args: Any, **options: Any) -> None:
        """Load, and say what happened; errors end the command with 1 after the other files were loaded."""
        with actor_context(command_actor("load_queues")):
            report = load_queue_files(**{name: options[name] for name in ("directory", "prune", "force")})
        for what in ("added", "updated", "unchanged", "overwritten", "missing", "removed"):
            if names := getattr(report, what):
                self.stdout.write(f"{what}: {', '.join(names)}")
        if report.errors:
            raise CommandError("\n".join(map(str, report.errors)))
