"""Avoid repeated work in tests whose result is always the same, which is half of their time."""

from functools import cache
from typing import Any

from django.db import connection, transaction
from django.test import TransactionTestCase
from whitenoise.middleware import WhiteNoiseMiddleware

from tests.support.database import find_tables_with_rows

KEPT_TABLES = {"auth_permission", "django_content_type"}
"""Tables that migrations fill from the models alone."""


def spare_repetitions() -> None:
    """Keep the rows that migrations created when tests empty tables, and search static files only once."""
    # Django's own flush fills these tables anew each time.
    TransactionTestCase._fixture_teardown = lambda _: empty_tables()  # noqa: SLF001 (there is no public hook)
    find, found = WhiteNoiseMiddleware.add_files_from_finders, dict[str, Any]()

    def find_once(middleware: WhiteNoiseMiddleware) -> None:
        if not found:
            find(middleware)
            found.update(middleware.files)
        middleware.files.update(found)

    WhiteNoiseMiddleware.add_files_from_finders = find_once


def empty_tables() -> None:
    """Empty the tables of all models except KEPT_TABLES."""
    with transaction.atomic(), connection.cursor() as cursor:
        tables = find_tables_with_rows(cursor, _all_tables())
        deletions = [f"DELETE FROM {connection.ops.quote_name(table)}" for table in tables]  # noqa: S608
        if connection.vendor == "postgresql":  # TRUNCATE takes twenty times as long, since it creates new files
            cursor.execute("; ".join(["SET LOCAL session_replication_role = replica", *deletions]))  # no foreign keys
        else:
            for deletion in deletions:
                cursor.execute(deletion)


@cache
def _all_tables() -> list[str]:
    names = connection.introspection.django_table_names(only_existing=True, include_views=False)
    return [name for name in names if name not in KEPT_TABLES]
