"""Run Django's management commands with runqy's settings.

`runqy manage`, and `manage.py` of a clone, run one for a person. A start runs several one after another in one process,
because starting Django takes longer than they do: `python -m runqy.manage migrate --no-input -- load_queues DIRECTORY`.
The first failure ends the process, with exit code EX_UNAVAILABLE if the database is unavailable.
"""

import itertools
import os
import sys
from collections.abc import Iterable, Sequence

from django.core.management import execute_from_command_line
from django.db import DatabaseError, OperationalError

from runqy.audit.actors import actor_context, command_actor
from runqy.core.database.errors import find_damage
from runqy.core.environment.process import pause_collection
from runqy.stack.stack_env import stack_variables


def run_manage(program: str, words: Sequence[str]) -> None:
    """Run a command with the Redis and the keys of a `runqy up` that runs in this folder.

    What it changes is recorded in the audit with its name and the account that runs it. `program` is the program's name
    in its help.
    """
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "runqy.settings")
    os.environ.update(stack_variables(os.environ))
    pause_collection()
    with actor_context(command_actor("".join(words[:1]) or "help")):
        execute_from_command_line([program, *words])


def main(words: Iterable[str]) -> None:
    """Run commands separated by `--`."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "runqy.settings")
    pause_collection()
    for is_separator, command in itertools.groupby(words, lambda word: word == "--"):
        if not is_separator:
            execute_from_command_line(["runqy manage", *command])


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except DatabaseError as error:
        damage = find_damage(error)
        if not damage and not isinstance(error, OperationalError):
            raise
        sys.stderr.write(f"{damage or f'The database cannot be used: {error}'}\n")
        sys.exit(os.EX_UNAVAILABLE)
