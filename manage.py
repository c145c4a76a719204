#!/usr/bin/env python
"""Runs Django's management commands with runqy's settings, beside a running `make run` on its Redis and keys.

What a command changes is recorded in the audit with its name and the account that runs it.
"""

import os
import sys

from django.core.management import execute_from_command_line

from runqy.audit.actors import actor_context, command_actor
from runqy.supervisor.stack_env import stack_variables

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "runqy.settings")
    os.environ.update(stack_variables(os.environ))
    with actor_context(command_actor("".join(sys.argv[1:2]) or "help")):
        execute_from_command_line(sys.argv)
