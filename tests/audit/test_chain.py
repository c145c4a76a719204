"""Whoever tampers with records is refused, or found out."""

from collections.abc import Callable, Iterator
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError, connection, transaction

from runqy.audit import triggers
from runqy.audit.models import AuditHead, AuditRecord
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


def rewrite_all() -> None:
    """Write the whole chain anew with another actor, head included."""
    previous = "0" * 64
    for row in AuditRecord.objects.order_by("number"):
        row.previous, row.actor_name = previous, "somebody else"
        row.digest = previous = row.chained_digest()
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
        ("UPDATE audit_auditrecord SET actor_name = 'x' WHERE number = 2", "Record 2 is not as it was written"),
        ("UPDATE audit_auditrecord SET changes = '{\"a\":1}' WHERE number = 3", "Record 3 is not as it was written"),
        ("UPDATE audit_auditrecord SET at = '2020-01-01 00:00:00+00:00' WHERE number = 1", "Record 1 is not as it was"),
        ("UPDATE audit_auditrecord SET request_id = 'x' WHERE number = 1", "Record 1 is not as it was written"),
        ("DELETE FROM audit_auditrecord WHERE number = 2", "Records 2 to 2 are missing"),
        ("DELETE FROM audit_auditrecord WHERE number = 1", "Records 1 to 1 are missing"),
        ("DELETE FROM audit_auditrecord WHERE number = 3", "The head says that record 3 is the last, but it is 2"),
        ("DELETE FROM audit_auditrecord", "The head says that record 3 is the last, but it is 0"),
        ("DELETE FROM audit_audithead", "The head says that record 0 is the last, but it is 3"),
        ("UPDATE audit_audithead SET digest = 'x'", "The head says"),
    ],
)
def test_what_was_done_past_the_server_is_found(records: list[AuditRecord], statement: str, sentence: str) -> None:
    execute(statement)

    with pytest.raises(CommandError, match=sentence):
        verify()


def test_a_record_put_in_place_of_another_is_found(records: list[AuditRecord]) -> None:
    second = AuditRecord.objects.get(number=2)
    second.object_name = "other"
    execute("UPDATE audit_auditrecord SET object_name = 'other', digest = %s WHERE number = 2", second.chained_digest())

    assert verify_chain().breaks == ["Record 3 does not follow the one before it."]


@pytest.mark.parametrize(
    "tamper", [rewrite_all, lambda: execute("DELETE FROM audit_auditrecord") or AuditHead.objects.all().delete()]
)
def test_a_chain_written_anew_is_whole_and_not_what_was_noted(
    records: list[AuditRecord], tamper: Callable[[], None]
) -> None:
    noted = verify()

    tamper()

    assert verify() != noted
    with pytest.raises(CommandError, match="No record 3 with the digest"):
        verify("--expect", noted)


@pytest.mark.parametrize("text", ["", "3", "x:" + "0" * 64, "3:abc"])
def test_what_the_command_did_not_print_is_not_expected(text: str) -> None:
    with pytest.raises(CommandError, match="NUMBER:DIGEST"):
        call_command("verify_audit", f"--expect={text}")


def test_the_models_refuse_to_change_or_delete_a_record(records: list[AuditRecord]) -> None:
    first = AuditRecord.objects.get(number=1)
    first.actor_name = "somebody else"
    attempts = [
        first.save,
        first.delete,
        lambda: AuditRecord.objects.update(actor_name="x"),
        lambda: AuditRecord.objects.filter(number=1).delete(),
        lambda: AuditRecord.objects.bulk_update([first], ["actor_name"]),
    ]

    for attempt in attempts:
        with pytest.raises(TypeError, match="Audit records are never"):
            attempt()
    assert verify_chain().is_whole


@pytest.mark.usefixtures("guarded")
@pytest.mark.parametrize(
    "statement", ["UPDATE audit_auditrecord SET actor_name = 'x'", "DELETE FROM audit_auditrecord WHERE number = 3"]
)
def test_the_database_refuses_too_and_still_takes_new_ones(statement: str) -> None:
    with pytest.raises(DatabaseError, match="only ever appended"), transaction.atomic():
        execute(statement)

    record(action="queue.paused", object_kind="queue", object_name="d")
    assert verify().startswith("4:")
