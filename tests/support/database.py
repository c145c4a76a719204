"""Environment variables that give processes of tests the tests' own database."""

import os
from urllib.parse import urlsplit, urlunsplit

from django.db import connection


def settings_of_database() -> dict[str, str]:
    """Return the environment of a process that works on the tests' database."""
    name = str(connection.settings_dict["NAME"])
    if connection.vendor == "sqlite":
        return {"SQLITE_DB_PATH": name}
    url = urlsplit(os.environ["DATABASE_URL"])
    return {"DATABASE_URL": urlunsplit(url._replace(path=f"/{name}"))}
