"""The tests' own database: the environment with which other processes find it, and its tables."""

import os
from collections.abc import Sequence
from functools import cache
from urllib.parse import urlsplit, urlunsplit

from django.db import connection, transaction
from django.db.backends.utils import CursorWrapper

KEPT_TABLES = {"auth_permission", "django_content_type"}
"""Tables that migrations fill from the models alone."""


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


def empty_tables() -> None:
    """Empty the tables of all models except KEPT_TABLES. The numbers of audit records begin with 1 again."""
    with transaction.atomic(), connection.cursor() as cursor:
        tables = find_tables_with_rows(cursor, _all_tables())
        deletions = [f"DELETE FROM {connection.ops.quote_name(table)}" for table in tables]  # noqa: S608
        if connection.vendor == "postgresql":  # TRUNCATE takes twenty times as long, since it creates new files
            no_foreign_keys = "SET LOCAL session_replication_role = replica"
            numbers = "SELECT setval(pg_get_serial_sequence('audit_auditrecord', 'number'), 1, false)"
            cursor.execute("; ".join([no_foreign_keys, *deletions, numbers]))
        else:
            for deletion in deletions:
                cursor.execute(deletion)
            if "audit_auditrecord" in _all_tables():
                cursor.execute("DELETE FROM sqlite_sequence WHERE name = 'audit_auditrecord'")


@cache
def _all_tables() -> list[str]:
    names = connection.introspection.django_table_names(only_existing=True, include_views=False)
    return [name for name in names if name not in KEPT_TABLES]
