"""The tests' own database: the environment with which other processes find it, and its tables."""

import os
from collections.abc import Sequence
from urllib.parse import urlsplit, urlunsplit

from django.db import connection
from django.db.backends.utils import CursorWrapper


def database_variables() -> dict[str, str]:
    """Return the environment variables of a process that uses the tests' database."""
    name = str(connection.settings_dict["NAME"])
    if connection.vendor == "sqlite":
        return {"SQLITE_DB_PATH": name}
    url = urlsplit(os.environ["DATABASE_URL"])
    return {"DATABASE_URL": urlunsplit(url._replace(path=f"/{name}"))}


def find_tables_with_rows(cursor: CursorWrapper, tables: Sequence[str]) -> list[str]:
    """Return the tables that are not empty, in one query."""
    parts = (f"SELECT %s WHERE EXISTS (SELECT 1 FROM {connection.ops.quote_name(name)})" for name in tables)  # noqa: S608
    cursor.execute(" UNION ALL ".join(parts), tables)
    return [name for (name,) in cursor.fetchall()]
