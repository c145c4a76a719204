"""The message about a damaged SQLite file."""

import sqlite3
from pathlib import Path

from django.db import connection

_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def find_damage(error: BaseException, *, with_folder: bool = True) -> str | None:
    """Return the message about an error of the database, if a damaged file caused it; None for another error."""
    # Django has no exception for this: it raises its base class, and the cause has SQLite's code. Further bits of an
    # extended code are details.
    code = getattr(error.__cause__, "sqlite_errorcode", 0) & 0xFF
    if code not in _DAMAGED:
        return None
    file = Path(connection.settings_dict["NAME"])
    name = file if with_folder else file.name
    return f"The database file {name} is damaged: restore a backup (docs/how-to/backup-and-restore.md)."
