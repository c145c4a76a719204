"""Database triggers that refuse to change records, or to delete any but those that retention removes."""

from django.db.backends.base.base import BaseDatabaseWrapper

_REFUSAL = "audit records are only ever appended"
_IS_KEPT = "OLD.number > coalesce((SELECT removed FROM audit_audithead WHERE id = 1), 0)"

_INSTALL = {
    "sqlite": [
        f"CREATE TRIGGER audit_no_{verb} BEFORE {verb} ON audit_auditrecord {condition} "
        f"BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END"
        for verb, condition in (("update", ""), ("delete", f"WHEN {_IS_KEPT}"))
    ],
    "postgresql": [
        "CREATE FUNCTION audit_refuse() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{_REFUSAL}' USING ERRCODE = 'integrity_constraint_violation'; END $$",
        "CREATE TRIGGER audit_append_only BEFORE UPDATE OR TRUNCATE ON audit_auditrecord "
        "FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse()",
        "CREATE FUNCTION audit_refuse_kept() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN IF {_IS_KEPT} THEN RAISE EXCEPTION '{_REFUSAL}' "
        "USING ERRCODE = 'integrity_constraint_violation'; END IF; RETURN OLD; END $$",
        "CREATE TRIGGER audit_keep BEFORE DELETE ON audit_auditrecord "
        "FOR EACH ROW EXECUTE FUNCTION audit_refuse_kept()",
    ],
}
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
    """Create the triggers, in SQLite and PostgreSQL."""
    _execute(connection, _INSTALL)


def remove(connection: BaseDatabaseWrapper) -> None:
    _execute(connection, _REMOVE)


def _execute(connection: BaseDatabaseWrapper, statements: dict[str, list[str]]) -> None:
    with connection.cursor() as cursor:
        for statement in statements.get(connection.vendor, []):
            cursor.execute(statement)
