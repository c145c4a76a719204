"""Django's command, with a record of what it did."""

import getpass
from typing import Any

from django.contrib.auth.management.commands import changepassword

from runqy.audit.actors import actor_context, command_actor
from runqy.audit.changes import CHANGED
from runqy.audit.operations import record


class Command(changepassword.Command):
    """`manage.py changepassword [USERNAME]`"""

    def handle(self, *args: Any, **options: Any) -> Any:
        """Ask for the password and set it; the record follows, for no transaction may wait for somebody who types."""
        username = options["username"] or getpass.getuser()
        with actor_context(command_actor("changepassword")):
            said = super().handle(*args, **options)
            record(action="user.updated", object_kind="user", object_name=username, changes={"password": CHANGED})
        return said
