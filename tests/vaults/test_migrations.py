"""The database schema while processes of an earlier release are running."""

import pytest
from django.db import connection

from vaults.models import Vault, VaultEntry


@pytest.mark.django_db
def test_an_earlier_release_can_create_entries_during_an_upgrade() -> None:
    vault = Vault.objects.create(name="v")
    later = {"usage", "git_hosts"}
    columns = [field.column for field in VaultEntry._meta.concrete_fields if field.name not in {"id", *later}]
    values = {"vault_id": vault.pk, "is_secret": True, "version": 1, "revision": 1, "ciphertext": b"c"}
    marks = ["CURRENT_TIMESTAMP" if column.endswith("_at") else "%s" for column in columns]

    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {VaultEntry._meta.db_table} ({', '.join(columns)}) VALUES ({', '.join(marks)})",  # noqa: S608
            [values.get(column, "x") for column in columns if not column.endswith("_at")],
        )

    entry = VaultEntry.objects.get()
    assert (entry.usage, entry.git_hosts) == ("environment", [])
