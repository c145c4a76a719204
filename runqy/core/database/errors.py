"""Errors of the database as ours: those of a row's validation, and the message about a damaged SQLite file."""

import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path

from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.db import connection
from django.db.models import Model


def model_errors(
    row: Model,
    *,
    exclude: Iterable[str] = (),
    prefix: str = "",
    label: Callable[[str], str] = lambda name: name,
    validate_constraints: bool = True,
) -> list[str]:
    """Call `full_clean` and return its messages as `prefix.label: message`.

    Messages of constraints over several fields have no label. Each constraint costs queries: leave them out if `clean`
    checks the same rule and there are hundreds of rows.
    """
    try:
        row.full_clean(exclude=exclude, validate_unique=validate_constraints, validate_constraints=validate_constraints)
    except ValidationError as error:
        return [
            _format([prefix, "" if name == NON_FIELD_ERRORS else label(name)], message)
            for name, messages in error.message_dict.items()
            for message in messages
        ]
    return []


def _format(path: Iterable[str], message: str) -> str:
    return ": ".join(filter(None, (".".join(filter(None, path)), message)))


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
