"""What the schema keeps to while processes of an earlier release run beside those of this one."""

import pytest
from django.db import connection

from runqy.accounts.models import ApiKey


@pytest.mark.django_db
def test_an_earlier_release_may_create_keys_during_an_upgrade() -> None:
    columns = "name, role, queues, digest, prefix, created_at"  # those of the first release

    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO accounts_apikey ({columns}) VALUES ('shop', 'client', '[]', 'd', 'rq_', CURRENT_TIMESTAMP)"  # noqa: S608
        )

    key = ApiKey.objects.get()
    assert (key.vaults, key.created_by_kind, key.created_by, key.rate_limit) == ([], "", "", "")
