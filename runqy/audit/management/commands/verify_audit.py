"""Verify the audit records."""

from argparse import ArgumentParser, ArgumentTypeError
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from runqy.audit.queries import count_waiting, verify_chain


class Command(BaseCommand):
    """`runqy manage verify_audit [--expect NUMBER:DIGEST] [--old-secret-key-file FILE]`"""

    help = "Verify that no audit record was changed or removed. Prints NUMBER:DIGEST of the last one, for --expect."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--expect",
            type=_parse,
            help="output of an earlier run, which must be part of the chain",
            metavar="NUMBER:DIGEST",
        )
        parser.add_argument(
            "--old-secret-key-file",
            type=Path,
            action="append",
            default=[],
            help="file with an earlier RUNQY_SECRET_KEY; repeatable",
            metavar="FILE",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            old = [file.read_text("utf-8").strip() for file in options["old_secret_key_file"]]
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(f"--old-secret-key-file: {error}") from error
        report = verify_chain(expected=options["expect"], old_secret_keys=old)
        if not report.is_whole:
            raise CommandError("\n".join(report.breaks))
        if (waiting := count_waiting()) is None:
            self.stderr.write("Redis cannot be reached. Records that wait there are not in the chain yet.")
        elif waiting:
            self.stderr.write(f"{waiting} records wait in Redis and are not in the chain yet.")
        self.stdout.write(f"{report.number}:{report.digest}")


def _parse(text: str) -> tuple[int, str]:
    number, _, digest = text.strip().partition(":")
    if not (number.isascii() and number.isdigit() and len(digest) == 64):
        raise ArgumentTypeError("must be NUMBER:DIGEST, as printed by verify_audit")
    return int(number), digest
