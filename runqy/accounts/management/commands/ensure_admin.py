"""Create the user `admin` if it does not exist."""

from pathlib import Path
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction

from runqy.audit.actors import actor_context, command_actor

USERNAME = "admin"


class Command(BaseCommand):
    """`runqy manage ensure_admin PASSWORD_FILE`"""

    help = "Create the user admin if it does not exist. The password of an existing user is not changed."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("password_file", type=Path)

    def handle(self, *, password_file: Path, **options: Any) -> None:
        try:
            password = password_file.read_text("utf-8").strip()
        except OSError as error:
            raise CommandError(f"The password file cannot be read: {error}") from error
        users = get_user_model().objects
        if not users.filter(username=USERNAME).exists():
            with actor_context(command_actor("ensure_admin")), transaction.atomic():
                users.create_superuser(USERNAME, password=password)
