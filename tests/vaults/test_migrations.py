"""What becomes of vaults from before their entries had versions."""

import base64
import json
from collections.abc import Iterator

import pytest
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone

from runqy.errors import VaultUnavailable
from runqy.publication.documents import Kind
from runqy.publication.models import StoredDocument
from vaults import queries
from vaults.crypto import Place
from vaults.keyring import get_keyring
from vaults.models import VaultEntry
from vaults.opening import open_vaults
from vaults.operations import set_entry
from vaults.published import encode_vault

TOKENS = [("vaults", "0004_export_permission"), ("queues", "0003_queue_removals")]
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


@pytest.fixture
def _undeclared(configuration: None) -> Iterator[None]:
    """Take the tables back to before entries were declared as git tokens."""
    MigrationExecutor(connection).migrate(TOKENS)
    yield
    executor = MigrationExecutor(connection)
    executor.migrate(executor.loader.graph.leaf_nodes())


@pytest.mark.usefixtures("_undeclared")
def test_entries_that_queues_use_as_git_tokens_stay_tokens_for_their_hosts_alone() -> None:
    apps = MigrationExecutor(connection).loader.project_state([*TOKENS, ("publication", "0003_rollouts")]).apps
    vault = apps.get_model("vaults", "Vault").objects.create(name="github")
    entries = {key: get_keyring().seal(Place("github", key, 7), f"value-of-{key}") for key in ("PAT", "OTHER")}
    for key, ciphertext in entries.items():
        row = {"key": key, "ciphertext": ciphertext, "is_secret": True, "revision": 7, "version": 1, "updated_by": "x"}
        apps.get_model("vaults", "VaultEntry").objects.create(vault=vault, sealed_at=timezone.now(), **row)
    published = [
        {"key": key, "version": 7, "number": 1, "ciphertext": base64.b64encode(entries[key]).decode()}
        for key in ("OTHER", "PAT")
    ]
    apps.get_model("publication", "Revision").objects.create(value=9)
    apps.get_model("publication", "StoredDocument").objects.create(
        kind="vault", name="github", revision=9, effective=9, body=json.dumps({"entries": published}).encode(), uses=[]
    )
    for name, git_url in {
        "one": "https://GitHub.com/a.git",
        "two": "https://git.example.com:8443/b.git",
        "ssh": "git@evil.com:c.git",
        "odd": "https://github.com@evil.com/d.git",
    }.items():
        apps.get_model("queues", "Queue").objects.create(
            name=name, git_url=git_url, startup_cmd="x", git_token="vault://github/PAT"
        )

    executor = MigrationExecutor(connection)
    executor.migrate(executor.loader.graph.leaf_nodes())

    declared = {entry.key: (entry.usage, entry.git_hosts) for entry in VaultEntry.objects.all()}
    assert declared == {"PAT": ("both", ["git.example.com:8443", "github.com"]), "OTHER": ("environment", [])}
    document = StoredDocument.objects.get(kind=Kind.VAULT)
    assert document.revision > document.effective == 9
    assert bytes(document.body) == encode_vault(VaultEntry.objects.all())
    token = "vault://github/PAT"
    assert open_vaults([], git_token=token, git_url="https://github.com/a.git").git_token == "value-of-PAT"
    assert open_vaults(["github"]).values == {"PAT": "value-of-PAT", "OTHER": "value-of-OTHER"}
    with pytest.raises(VaultUnavailable, match="only for"):
        open_vaults([], git_token=token, git_url="https://evil.com/d.git")
