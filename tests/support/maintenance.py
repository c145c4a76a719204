"""Start maintenance by its command, on the tests' Redis and database."""

import os
import subprocess
import sys
from typing import IO

from tests.support.database import database_variables


def start_maintenance(output: IO[bytes] | int = subprocess.PIPE, **changes: str) -> "subprocess.Popen[str]":
    """Start a process. Without a file for its output, both streams are pipes."""
    env = os.environ | {"DJANGO_SETTINGS_MODULE": "runqy.settings"} | database_variables() | changes
    command = [sys.executable, "-m", "django", "run_maintenance"]
    return subprocess.Popen(command, env=env, stdout=output, stderr=output, text=True)
