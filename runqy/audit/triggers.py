"""The triggers of migration 0001, which refused changes of records. A new database gets none, and 0002 removes them."""

from django.db.backends.base.base import BaseDatabaseWrapper

_REMOVE = {
    "sqlite": ["DROP TRIGGER IF EXISTS audit_no_update", "DROP TRIGGER IF EXISTS audit_no_delete"],
    "postgresql": [
        "DROP TRIGGER IF EXISTS audit_append_only ON audit_auditrecord",
        "DROP TRIGGER IF EXISTS audit_keep ON audit_auditrecord",
        "DROP FUNCTION IF EXISTS audit_refuse()",
        "DROP FUNCTION IF EXISTS audit_refuse_kept()",
    ],
}


def install(connection: BaseDatabaseWrapper) -> None:
    """Do nothing, for migration 0001."""


def remove(connection: BaseDatabaseWrapper) -> None:
    with connection.cursor() as cursor:
        for statement in _REMOVE.get(connection.vendor, []):
            cursor.execute(statement)
