"""Runs management commands one after another in one process: Django takes longer to start than they to run.

`python -m runqy.commands migrate --no-input -- load_queues DIRECTORY`; the first that fails ends it, with the status
EX_UNAVAILABLE when it was the database that could not be reached.
"""

import itertools
import os
import sys
from collections.abc import Iterable

from django.core.management import execute_from_command_line
from django.db import OperationalError


def main(words: Iterable[str]) -> None:
    """Run the commands that these words spell, separated by `--`."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "runqy.settings")
    for is_separator, command in itertools.groupby(words, lambda word: word == "--"):
        if not is_separator:
            execute_from_command_line(["manage.py", *command])


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except OperationalError as error:
        sys.stderr.write(f"The database cannot be used: {error}\n")
        sys.exit(os.EX_UNAVAILABLE)
