"""What becomes of vaults from before their entries had versions."""

import base64
from collections.abc import Iterator

import pytest
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone

from runqy.publication.documents import Kind
from runqy.publication.models import StoredDocument
from vaults import queries
from vaults.crypto import Place
from vaults.keyring import get_keyring
from vaults.models import VaultEntry
from vaults.opening import open_vaults
from vaults.operations import set_entry

BODY = b'{"entries":[{"key":"A","version":7,"ciphertext":"%s"}]}'


@pytest.fixture
def _before(configuration: None) -> Iterator[None]:
    """Take the tables back to before there were versions."""
    executor = MigrationExecutor(connection)
    executor.migrate([("vaults", "0001_initial"), ("publication", "0001_initial")])
    yield
    executor = MigrationExecutor(connection)
    executor.migrate(executor.loader.graph.leaf_nodes())


@pytest.mark.usefixtures("_before")
def test_entries_from_before_have_version_1_and_open() -> None:
    apps = (
        MigrationExecutor(connection)
        .loader.project_state([("vaults", "0001_initial"), ("publication", "0001_initial")])
        .apps
    )
    vault = apps.get_model("vaults", "Vault").objects.create(name="old")
    ciphertext = get_keyring().seal(Place("old", "A", 7), "value")
    entry = apps.get_model("vaults", "VaultEntry")
    entry.objects.create(vault=vault, key="A", version=7, ciphertext=ciphertext, is_secret=True)
    body = BODY % base64.b64encode(ciphertext)
    document = apps.get_model("publication", "StoredDocument")
    document.objects.create(kind="vault", name="old", revision=9, body=body, uses=[])

    executor = MigrationExecutor(connection)
    executor.migrate(executor.loader.graph.leaf_nodes())

    row = VaultEntry.objects.get()
    assert (row.version, row.revision, row.sealed_at) == (1, 7, row.updated_at)
    assert [(version.version, version.event) for version in queries.list_versions("old", "A")] == [(1, "set")]
    assert StoredDocument.objects.get(kind=Kind.VAULT).effective == 9
    assert open_vaults(["old"]).values == {"A": "value"}
    assert set_entry(vault="old", key="A", value="another").version == 2
    assert row.created_at < timezone.now()
