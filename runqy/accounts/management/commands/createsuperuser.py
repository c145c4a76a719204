"""Django's command, with a record of what it did."""

from typing import Any

from django.contrib.auth.management.commands import createsuperuser
from django.contrib.auth.models import User
from django.db.models import Max

from runqy.audit.actors import actor_context, command_actor
from runqy.audit.operations import record


class Command(createsuperuser.Command):
    """`manage.py createsuperuser`"""

    def handle(self, *args: Any, **options: Any) -> Any:
        """Ask who it is and create them; the record follows, for no transaction may wait for somebody who types."""
        newest: int = User.objects.aggregate(pk=Max("pk"))["pk"] or 0
        with actor_context(command_actor("createsuperuser")):
            said = super().handle(*args, **options)
            for user in User.objects.filter(pk__gt=newest, is_superuser=True):
                changes = {"is_superuser": (None, True)}
                record(action="user.created", object_kind="user", object_name=user.username, changes=changes)
        return said
