"""Verifies the audit."""

from argparse import ArgumentParser, ArgumentTypeError
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from runqy.audit.queries import verify_chain


class Command(BaseCommand):
    """`manage.py verify_audit [--expect NUMBER:DIGEST] [--old-secret-key-file FILE]`"""

    help = "Tell whether an audit record was changed or removed; prints NUMBER:DIGEST of the last one, to be noted."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take what was noted earlier."""
        parser.add_argument("--expect", type=_parse, help="what this command printed earlier", metavar="NUMBER:DIGEST")
        parser.add_argument(
            "--old-secret-key-file",
            type=Path,
            action="append",
            default=[],
            help="a file with a RUNQY_SECRET_KEY of before; may be given several times",
            metavar="FILE",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Walk along the chain."""
        try:
            old = [file.read_text("utf-8").strip() for file in options["old_secret_key_file"]]
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(f"--old-secret-key-file: {error}") from error
        report = verify_chain(expected=options["expect"], old_secret_keys=old)
        if not report.is_whole:
            raise CommandError("\n".join(report.breaks))
        self.stdout.write(f"{report.number}:{report.digest}")


def _parse(text: str) -> tuple[int, str]:
    """Read what the command printed."""
    number, _, digest = text.strip().partition(":")
    if not (number.isascii() and number.isdigit() and len(digest) == 64):
        raise ArgumentTypeError("It is spelled NUMBER:DIGEST, as verify_audit prints it.")
    return int(number), digest
