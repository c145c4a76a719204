"""A damaged SQLite file: what to say about it."""

import sqlite3
from pathlib import Path

from django.db import connection

_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def find_damage(error: BaseException, *, with_folder: bool = True) -> str | None:
    """Return what to do about an error of the database that is due to a damaged file; None for another error.

    Django knows no type for it: the two codes arrive as its base class, like any that it does not know.
    """
    code = getattr(error.__cause__, "sqlite_errorcode", 0) & 0xFF  # the rest is detail
    if code not in _DAMAGED:
        return None
    file = Path(connection.settings_dict["NAME"])
    name = file if with_folder else file.name
    return f"The database file {name} is damaged: restore a backup (docs/operations.md#backup-and-restore)."
