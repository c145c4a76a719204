"""Writes docs/api.md."""

import json
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand
from drf_spectacular.generators import SchemaGenerator

from runqy.api.reference import write_reference


class Command(BaseCommand):
    """`manage.py write_api_docs [PATH]`"""

    help = "Write every route of the API, with curl, from its schema."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Name the file."""
        parser.add_argument("path", nargs="?", type=Path, default=Path("docs/api.md"))

    def handle(self, *args: Any, **options: Any) -> None:
        """Write the file."""
        schema = SchemaGenerator().get_schema(request=None, public=True)  # type: ignore[no-untyped-call]
        options["path"].write_text(write_reference(json.loads(json.dumps(schema))), encoding="utf-8")
