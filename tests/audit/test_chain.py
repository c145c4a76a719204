"""Tampering with records is refused or detected."""

from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError, connection, transaction

from runqy.audit import triggers
from runqy.audit.models import AuditHead, AuditRecord, chain_key
from runqy.audit.operations import record
from runqy.audit.queries import verify_chain

pytestmark = pytest.mark.usefixtures("configuration")


@pytest.fixture
def records(configuration: None) -> list[AuditRecord]:
    """Append three records and return them."""
    return [record(action="queue.paused", object_kind="queue", object_name=name) for name in "abc"]


@pytest.fixture
def guarded(records: list[AuditRecord]) -> Iterator[None]:
    """Let the database refuse changes, as it does outside of tests."""
    triggers.install(connection)
    yield
    triggers.remove(connection)


def execute(statement: str, *values: object) -> None:
    """Do to the database what its owner can do."""
    with connection.cursor() as cursor:
        cursor.execute(statement, values)


def verify(*options: str) -> str:
    """Run the command and return what it prints."""
    out = StringIO()
    call_command("verify_audit", *options, stdout=out)
    return out.getvalue().strip()


def rewrite_all(key: bytes) -> None:
    """Write the whole chain anew with another actor, head included."""
    previous = "0" * 64
    for row in AuditRecord.objects.order_by("number"):
        row.previous, row.actor_name = previous, "another user"
        row.digest = previous = row.chained_digest(key)
        execute(
            "UPDATE audit_auditrecord SET actor_name = %s, previous = %s, digest = %s WHERE id = %s",
            *(row.actor_name, row.previous, row.digest, row.pk),
        )
    AuditHead.objects.update(digest=previous)


def test_an_empty_audit_is_whole() -> None:
    assert verify() == f"0:{'0' * 64}"
    assert verify("--expect", verify()) == verify()


def test_a_whole_chain_ends_at_what_the_command_prints(records: list[AuditRecord]) -> None:
    assert verify() == f"3:{records[2].digest}"
    assert verify("--expect", f"2:{records[1].digest}") == verify()


@pytest.mark.parametrize(
    ("statement", "sentence"),
    [
        ("UPDATE audit_auditrecord SET actor_name = 'x' WHERE number = 2", "Record 2 was changed"),
        ("UPDATE audit_auditrecord SET changes = '{\"a\":1}' WHERE number = 3", "Record 3 was changed"),
        ("UPDATE audit_auditrecord SET at = '2020-01-01 00:00:00+00:00' WHERE number = 1", "Record 1 was changed"),
        ("UPDATE audit_auditrecord SET request_id = 'x' WHERE number = 1", "Record 1 was changed"),
        ("DELETE FROM audit_auditrecord WHERE number = 2", "Records 2 to 2 are missing"),
        ("DELETE FROM audit_auditrecord WHERE number = 1", "Records 1 to 1 are missing"),
        ("DELETE FROM audit_auditrecord WHERE number = 3", "The last record is 2, but the head names 3"),
        ("DELETE FROM audit_auditrecord", "The last record is 0, but the head names 3"),
        ("DELETE FROM audit_audithead", "The last record is 3, but the head names 0"),
        ("UPDATE audit_audithead SET digest = 'x'", "The last record"),
    ],
)
def test_changes_that_bypass_the_server_are_found(records: list[AuditRecord], statement: str, sentence: str) -> None:
    execute(statement)

    with pytest.raises(CommandError, match=sentence):
        verify()


def test_a_record_that_replaces_another_is_found(records: list[AuditRecord]) -> None:
    second = AuditRecord.objects.get(number=2)
    second.object_name = "other"
    execute(
        "UPDATE audit_auditrecord SET object_name = 'other', digest = %s WHERE number = 2",
        second.chained_digest(chain_key()),
    )

    assert verify_chain().breaks == ["Record 3 does not follow its predecessor."]


@pytest.mark.parametrize(
    "tamper",
    [
        lambda: rewrite_all(chain_key()),  # which takes the server's secret key too
        lambda: execute("DELETE FROM audit_auditrecord") or AuditHead.objects.all().delete(),
    ],
)
def test_a_rewritten_chain_is_valid_but_does_not_match_the_stored_line(
    records: list[AuditRecord], tamper: Callable[[], None]
) -> None:
    noted = verify()

    tamper()

    assert verify() != noted
    with pytest.raises(CommandError, match="There is no record 3 with digest"):
        verify("--expect", noted)


def test_a_chain_written_anew_without_the_secret_key_is_found(records: list[AuditRecord]) -> None:
    rewrite_all(chain_key("of another server"))

    assert [found.partition(",")[0] for found in verify_chain().breaks] == [
        f"Record {n} was changed" for n in (1, 2, 3)
    ]


def test_what_was_recorded_before_the_secret_key_changed_is_verified_with_the_old_one(
    records: list[AuditRecord], settings: Any, tmp_path: Path
) -> None:
    old = tmp_path / "old_key"
    old.write_text(f"{settings.SECRET_KEY}\n")
    settings.SECRET_KEY = "another secret key"
    fourth = record(action="queue.paused", object_kind="queue", object_name="d")

    with pytest.raises(CommandError, match="Record 1 was changed, or made with another RUNQY_SECRET_KEY"):
        verify()
    assert verify("--old-secret-key-file", str(old)) == f"4:{fourth.digest}"
    execute("UPDATE audit_auditrecord SET actor_name = 'x' WHERE number = 2")
    with pytest.raises(CommandError, match="Record 2 was changed"):
        verify("--old-secret-key-file", str(old))


@pytest.mark.parametrize("text", ["", "3", "x:" + "0" * 64, "3:abc"])
def test_what_the_command_did_not_print_is_not_expected(text: str) -> None:
    with pytest.raises(CommandError, match="NUMBER:DIGEST"):
        call_command("verify_audit", f"--expect={text}")


@pytest.mark.usefixtures("guarded")
@pytest.mark.parametrize(
    "statement", ["UPDATE audit_auditrecord SET actor_name = 'x'", "DELETE FROM audit_auditrecord WHERE number = 3"]
)
def test_the_database_refuses_changes_and_still_takes_new_records(statement: str) -> None:
    with pytest.raises(DatabaseError, match="only ever appended"), transaction.atomic():
        execute(statement)

    record(action="queue.paused", object_kind="queue", object_name="d")
    assert verify().startswith("4:")
