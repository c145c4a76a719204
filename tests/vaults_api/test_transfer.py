"""Exporting and importing vaults over HTTP."""

from typing import Any

import pytest

from tests.api.client import ApiClient, problem
from tests.vaults_api.routes import PHRASE, SECRET, content
from vaults.models import Vault
from vaults.opening import open_vaults


def test_a_vault_is_exported_and_imported(client: ApiClient) -> None:
    answer = client.post("/api/vaults/api-keys/export", {"passphrase": PHRASE})
    export = content(answer)
    assert answer["Content-Disposition"] == 'attachment; filename="api-keys.runqy-vault.json"'
    assert SECRET.encode() not in answer.content
    content(client.delete("/api/vaults/api-keys/entries/OPENAI_API_KEY"))

    asked = {"passphrase": PHRASE, "export": export}
    preview = content(client.post("/api/vaults/import", asked | {"dry_run": True}))
    refused = client.post("/api/vaults/import", asked)
    done = content(client.post("/api/vaults/import", asked | {"replace": True}))
    copied = content(client.post("/api/vaults/import", asked | {"name": "copy"}))

    entries = [{"key": "DEBUG_MODE", "outcome": "unchanged"}, {"key": "OPENAI_API_KEY", "outcome": "added"}]
    told = {"vault": "api-keys", "is_new": False, "entries": entries}
    assert preview == {"message": "nothing was changed", "published": True} | told
    assert (refused.status_code, problem(refused)["code"]) == (409, "vault_exists")
    assert done == {"message": "vault imported successfully", "published": True} | told
    assert (copied["vault"], copied["is_new"]) == ("copy", True)
    assert open_vaults(["copy"]).values == {"DEBUG_MODE": "true", "OPENAI_API_KEY": SECRET}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "invalid_request"),
        ({"passphrase": "short"}, "passphrase_refused"),
        ({"passphrase": 7}, "invalid_request"),
        ({"passphrase": "correct horse battery staple", "pass": 1}, "invalid_request"),
    ],
)
def test_an_export_needs_a_passphrase_that_protects(client: ApiClient, body: Any, code: str) -> None:
    answer = client.post("/api/vaults/api-keys/export", body)

    assert (answer.status_code, problem(answer)["code"]) == (400, code)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "invalid_request"),
        ({"export": {}}, "export_unreadable"),
        ({"export": "x"}, "invalid_request"),
        ({"passphrase": "another passphrase"}, "export_not_opened"),
        ({"name": "a b"}, "vault_invalid"),
        ({"name": "import"}, "vault_invalid"),
        ({"replace": "yes"}, "invalid_request"),
    ],
)
def test_an_import_that_cannot_be_is_refused(client: ApiClient, body: Any, code: str) -> None:
    export = content(client.post("/api/vaults/api-keys/export", {"passphrase": PHRASE}))
    asked = {"passphrase": PHRASE, "export": export, "name": "copy"} | body if body else {}

    answer = client.post("/api/vaults/import", asked)

    assert (answer.status_code, problem(answer)["code"]) == (400, code)
    assert not Vault.objects.exclude(name="api-keys").exists()
