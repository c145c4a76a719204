"""Makes the first administrator of an instance."""

from pathlib import Path
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction

from runqy.audit.actors import actor_context, command_actor
from runqy.audit.operations import record

USERNAME = "admin"


class Command(BaseCommand):
    """Create the administrator `admin`, unless there is one already: then its password stays what it is."""

    help = __doc__

    def add_arguments(self, parser: CommandParser) -> None:
        """Take the file with the password."""
        parser.add_argument("password_file", type=Path)

    def handle(self, *, password_file: Path, **options: Any) -> None:
        """Create the user."""
        try:
            password = password_file.read_text("utf-8").strip()
        except OSError as error:
            raise CommandError(f"The password cannot be read: {error}") from error
        users = get_user_model().objects
        if not users.filter(username=USERNAME).exists():
            with actor_context(command_actor("ensure_admin")), transaction.atomic():
                users.create_superuser(USERNAME, password=password)
                changes = {"is_superuser": (None, True)}
                record(action="user.created", object_kind="user", object_name=USERNAME, changes=changes)
