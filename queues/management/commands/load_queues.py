"""Load queue files."""

import sys
from argparse import ArgumentParser
from dataclasses import asdict
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from queues.queue_files import load_queue_files, read_queue_files
from runqy.audit.actors import actor_context, command_actor


class Command(BaseCommand):
    """`runqy manage load_queues [DIRECTORY] [--prune [--force]] [--check]`"""

    help = "Add and update queues from the YAML files of a directory."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("directory", nargs="?", type=Path, default=settings.QUEUE_WORKERS_DIR)
        parser.add_argument("--prune", action="store_true", help="delete queues that are no longer in the files")
        parser.add_argument("--force", action="store_true", help="with --prune: also queues with unfinished tasks")
        parser.add_argument("--check", action="store_true", help="only validate, and print the queues as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["check"]:
            self._check(options["directory"])
            return
        with actor_context(command_actor("load_queues")):
            report = load_queue_files(**{name: options[name] for name in ("directory", "prune", "force")})
        for what in ("added", "updated", "unchanged", "overwritten", "missing", "removed"):
            if names := getattr(report, what):
                self.stdout.write(f"{what}: {', '.join(names)}")
        for key, loaded in report.sections.items():
            for what, names in asdict(loaded).items():
                if names:
                    self.stdout.write(f"{key} {what}: {', '.join(names)}")
        for warning in report.warnings:
            self.stderr.write(f"Warning: {warning}")
        # The other files have been loaded.
        if report.errors:
            raise CommandError("\n".join(map(str, report.errors)))

    def _check(self, directory: Path) -> None:
        """Print each queue as it would be published, one per line. Needs no database."""
        found = read_queue_files(directory)
        if found.errors:
            sys.stderr.write("".join(f"{error}\n" for error in found.errors))
            sys.exit(1)
        for spec, _, _ in found.queues.values():
            self.stdout.write(spec.encode().decode())
