"""Runs management commands one after another in one process: Django takes longer to start than they to run.

`python -m runqy.commands migrate --no-input -- load_queues DIRECTORY`; the first that fails ends it.
"""

import itertools
import os
import sys
from collections.abc import Iterable

from django.core.management import execute_from_command_line


def main(words: Iterable[str]) -> None:
    """Run the commands that these words spell, separated by `--`."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "runqy.settings")
    for is_separator, command in itertools.groupby(words, lambda word: word == "--"):
        if not is_separator:
            execute_from_command_line(["manage.py", *command])


if __name__ == "__main__":
    main(sys.argv[1:])
