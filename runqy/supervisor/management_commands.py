"""Run management commands one after another in one process, because starting Django takes longer than they do.

`python -m runqy.supervisor.management_commands migrate --no-input -- load_queues DIRECTORY`. The first failure
ends the process, with exit code EX_UNAVAILABLE if the database is unavailable.
"""

import itertools
import os
import sys
from collections.abc import Iterable

from django.core.management import execute_from_command_line
from django.db import DatabaseError, OperationalError

from runqy.database.damage import find_damage


def main(words: Iterable[str]) -> None:
    """Run commands separated by `--`."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "runqy.settings")
    for is_separator, command in itertools.groupby(words, lambda word: word == "--"):
        if not is_separator:
            execute_from_command_line(["manage.py", *command])


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except DatabaseError as error:
        damage = find_damage(error)
        if not damage and not isinstance(error, OperationalError):
            raise
        sys.stderr.write(f"{damage or f'The database cannot be used: {error}'}\n")
        sys.exit(os.EX_UNAVAILABLE)
