"""Exporting and importing vaults over HTTP."""

from typing import Any

import pytest

from tests.api.client import ApiClient, problem
from tests.vaults_api.routes import PHRASE, SECRET, content
from vaults.models import Vault
from vaults.worker_secrets import get_worker_secrets


def test_a_vault_is_exported_and_imported(client: ApiClient) -> None:
    response = client.post("/api/vaults/api-keys/export", {"passphrase": PHRASE})
    export = content(response)
    assert response["Content-Disposition"] == 'attachment; filename="api-keys.runqy-vault.json"'
    assert SECRET.encode() not in response.content
    content(client.delete("/api/vaults/api-keys/entries/OPENAI_API_KEY"))

    body = {"passphrase": PHRASE, "export": export}
    preview = content(client.post("/api/vaults/import", body | {"dry_run": True}))
    refused = client.post("/api/vaults/import", body)
    done = content(client.post("/api/vaults/import", body | {"replace": True}))
    copied = content(client.post("/api/vaults/import", body | {"name": "copy"}))

    entries = [{"key": "DEBUG_MODE", "outcome": "unchanged"}, {"key": "OPENAI_API_KEY", "outcome": "added"}]
    expected = {"vault": "api-keys", "is_new": False, "entries": entries}
    assert preview == {"message": "nothing was changed", "published": True} | expected
    assert (refused.status_code, problem(refused)["code"]) == (409, "vault_exists")
    assert done == {"message": "vault imported successfully", "published": True} | expected
    assert (copied["vault"], copied["is_new"]) == ("copy", True)
    assert get_worker_secrets(["copy"]).values == {"DEBUG_MODE": "true", "OPENAI_API_KEY": SECRET}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "invalid_request"),
        ({"passphrase": "short"}, "passphrase_refused"),
        ({"passphrase": 7}, "invalid_request"),
        ({"passphrase": "correct horse battery staple", "pass": 1}, "invalid_request"),
    ],
)
def test_an_export_requires_a_valid_passphrase(client: ApiClient, body: Any, code: str) -> None:
    response = client.post("/api/vaults/api-keys/export", body)

    assert (response.status_code, problem(response)["code"]) == (400, code)


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
def test_an_invalid_import_is_rejected(client: ApiClient, body: Any, code: str) -> None:
    export = content(client.post("/api/vaults/api-keys/export", {"passphrase": PHRASE}))
    content_sent = {"passphrase": PHRASE, "export": export, "name": "copy"} | body if body else {}

    response = client.post("/api/vaults/import", content_sent)

    assert (response.status_code, problem(response)["code"]) == (400, code)
    assert not Vault.objects.exclude(name="api-keys").exists()
