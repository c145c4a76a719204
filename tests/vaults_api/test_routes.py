"""The vault routes: each as the reference shows it, and what each refuses."""

import json
import re
from typing import Any

import pytest

from tests.api.client import Answer, ApiClient, problem
from tests.support.environment import CLIENT_KEY, WORKER_KEY
from vaults.models import Vault, VaultEntry

SECRET = "sk-your-key-here-xyz"
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


@pytest.fixture
def client(configuration: None) -> ApiClient:
    """Return an administrator's client; there is a vault with a secret and with another value."""
    client = ApiClient()
    client.post("/api/vaults", {"name": "api-keys", "description": "API keys for external services"})
    client.post("/api/vaults/api-keys/entries", {"key": "OPENAI_API_KEY", "value": SECRET})
    client.post("/api/vaults/api-keys/entries", {"key": "DEBUG_MODE", "value": "true", "is_secret": False})
    return client


def content(answer: Answer, status: int = 200) -> Any:
    """Return what an answer says; none of them may be kept in a cache."""
    assert answer.status_code == status, answer.content
    assert answer["Cache-Control"] == "no-store"
    return json.loads(answer.content)


def test_vaults_are_listed_with_their_counts(client: ApiClient) -> None:
    assert content(client.get("/api/vaults")) == {
        "vaults": [{"name": "api-keys", "description": "API keys for external services", "entry_count": 2}],
        "count": 1,
    }


def test_a_vault_is_created(client: ApiClient) -> None:
    answer = client.post("/api/vaults", {"name": "more"})

    assert content(answer, 201) == {
        "message": "vault created successfully",
        "vault": {"name": "more", "description": ""},
    }
    assert Vault.objects.filter(name="more").exists()


def test_a_vault_that_exists_is_not_created_again(client: ApiClient) -> None:
    answer = client.post("/api/vaults", {"name": "api-keys", "description": "another"})

    assert (answer.status_code, problem(answer)["code"]) == (409, "vault_exists")
    assert Vault.objects.get().description == "API keys for external services"


def test_a_vault_is_shown_with_its_secrets_masked(client: ApiClient) -> None:
    shown = content(client.get("/api/vaults/api-keys"))

    assert shown.keys() == {"name", "description", "entries", "created_at", "updated_at"}
    assert [(e["key"], e["value"], e["is_secret"]) for e in shown["entries"]] == [
        ("DEBUG_MODE", "true", False),
        ("OPENAI_API_KEY", "sk****yz", True),
    ]
    for owner in (shown, *shown["entries"]):
        assert _TIME.fullmatch(owner["created_at"])
        assert _TIME.fullmatch(owner["updated_at"])


def test_entries_are_listed_with_secrets_masked(client: ApiClient) -> None:
    listed = content(client.get("/api/vaults/api-keys/entries"))

    assert listed["count"] == 2
    assert listed["entries"] == content(client.get("/api/vaults/api-keys"))["entries"]


def test_an_entry_is_set_and_set_again(client: ApiClient) -> None:
    answer = client.post("/api/vaults/api-keys/entries", {"key": "DEBUG_MODE", "value": "false", "is_secret": False})

    assert content(answer) == {"message": "entry set successfully"}
    entries = content(client.get("/api/vaults/api-keys/entries"))["entries"]
    assert [e["value"] for e in entries if e["key"] == "DEBUG_MODE"] == ["false"]


def test_an_entry_is_a_secret_unless_it_says_otherwise(client: ApiClient) -> None:
    client.post("/api/vaults/api-keys/entries", {"key": "NEW", "value": SECRET})

    entry = next(e for e in content(client.get("/api/vaults/api-keys"))["entries"] if e["key"] == "NEW")

    assert (entry["is_secret"], entry["value"]) == (True, "sk****yz")


def test_an_entry_is_deleted(client: ApiClient) -> None:
    assert content(client.delete("/api/vaults/api-keys/entries/DEBUG_MODE")) == {
        "message": "entry deleted successfully"
    }
    assert not VaultEntry.objects.filter(key="DEBUG_MODE").exists()


def test_a_vault_is_deleted_with_its_entries(client: ApiClient) -> None:
    assert content(client.delete("/api/vaults/api-keys")) == {"message": "vault deleted successfully"}
    assert not VaultEntry.objects.exists()


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "name: is required"),
        ({"name": 7}, "name: expected `str`, got `int`"),
        ({"name": "-x"}, "a vault's name has"),
        ({"name": "a/b"}, "a vault's name has"),
        ({"name": "x", "description": "a\0b"}, "A description has no NUL"),
        ({"name": "x", "description": None}, "description: expected `str`, got `null`"),
        ([], "must be a JSON object"),
        (b"{", "is not JSON"),
        (b'{"name":"\\ud800abcdefgh"}', "The body"),
    ],
)
def test_a_vault_that_is_not_well_described_is_refused(client: ApiClient, body: Any, says: str) -> None:
    answer = client.post("/api/vaults", body)

    assert (answer.status_code, says in problem(answer)["errors"][0]) == (400, True), answer.content


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"value": "v"}, "key: is required"),
        ({"key": "K"}, "value: is required"),
        ({"key": "K", "value": 1}, "value: expected `str`, got `int`"),
        ({"key": "K", "value": ""}, "a value is not empty"),
        ({"key": "K", "value": "x" * 65537}, "64 KiB"),
        ({"key": "1K", "value": "v"}, "a variable's name has"),
        ({"key": "PATH", "value": "v"}, "reserved"),
        ({"key": "RUNQY_X", "value": "v"}, "reserved"),
        ({"key": "K", "value": "v", "is_secret": "no"}, "is_secret: expected `bool`, got `str`"),
    ],
)
def test_a_wrong_entry_is_refused(client: ApiClient, body: Any, says: str) -> None:
    answer = client.post("/api/vaults/api-keys/entries", body)

    assert (answer.status_code, says in problem(answer)["errors"][0]) == (400, True), answer.content


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("get", "/api/vaults/nope", "vault_not_found"),
        ("delete", "/api/vaults/nope", "vault_not_found"),
        ("get", "/api/vaults/nope/entries", "vault_not_found"),
        ("delete", "/api/vaults/nope/entries/K", "vault_not_found"),
        ("delete", "/api/vaults/api-keys/entries/NOPE", "vault_entry_not_found"),
    ],
)
def test_what_is_not_there_is_not_found(client: ApiClient, method: str, path: str, code: str) -> None:
    answer = getattr(client, method)(path)

    assert (answer.status_code, problem(answer)["code"]) == (404, code)


@pytest.mark.parametrize("name", ["%00", "%FF", "x" * 5000, "%F0%9F%92%A9"])
def test_no_name_is_too_odd_to_be_unknown(client: ApiClient, name: str) -> None:
    body = {"key": "K", "value": "v"}
    for answer in (
        client.get(f"/api/vaults/{name}"),
        client.delete(f"/api/vaults/{name}"),
        client.get(f"/api/vaults/{name}/entries"),
        client.post(f"/api/vaults/{name}/entries", body),
        client.delete(f"/api/vaults/api-keys/entries/{name}"),
    ):
        assert answer.status_code == 404, answer.content


def test_an_entry_cannot_be_set_in_a_vault_that_is_not_there(client: ApiClient) -> None:
    answer = client.post("/api/vaults/nope/entries", {"key": "K", "value": "v"})

    assert (answer.status_code, problem(answer)["code"]) == (404, "vault_not_found")


ROUTES = [
    ("get", "/api/vaults"),
    ("post", "/api/vaults"),
    ("get", "/api/vaults/api-keys"),
    ("delete", "/api/vaults/api-keys"),
    ("get", "/api/vaults/api-keys/entries"),
    ("post", "/api/vaults/api-keys/entries"),
    ("delete", "/api/vaults/api-keys/entries/DEBUG_MODE"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize(("key", "status"), [(None, 401), ("wrong", 401), (WORKER_KEY, 403), (CLIENT_KEY, 403)])
def test_only_administrators_get_in(client: ApiClient, method: str, path: str, key: str | None, status: int) -> None:
    answer = getattr(ApiClient(key), method)(path)

    assert answer.status_code == status
    problem(answer)
    assert Vault.objects.filter(name="api-keys").exists()


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_without_a_master_key_there_are_no_vaults(client: ApiClient, settings: Any, method: str, path: str) -> None:
    settings.RUNQY_VAULT_MASTER_KEY = ""

    answer = getattr(client, method)(path)

    assert (answer.status_code, problem(answer)["code"]) == (503, "vaults_locked")
    assert answer["Cache-Control"] == "no-store"


def test_a_value_that_does_not_open_is_named_and_no_part_is_shown(client: ApiClient) -> None:
    VaultEntry.objects.filter(key="OPENAI_API_KEY").update(ciphertext=b"altered")

    answer = client.get("/api/vaults/api-keys")

    assert answer.status_code == 503
    assert "OPENAI_API_KEY" in problem(answer)["detail"]
    assert b"true" not in answer.content


def test_a_vault_is_changed_as_it_was_read_or_not_at_all(client: ApiClient) -> None:
    tag = client.get("/api/vaults/api-keys")["ETag"]
    known = client.get("/api/vaults/api-keys/entries", **{"If-None-Match": tag})
    assert (known.status_code, known["ETag"], known["Cache-Control"]) == (304, tag, "no-store")

    body = {"key": "DEBUG_MODE", "value": "other", "is_secret": False}
    assert client.post("/api/vaults/api-keys/entries", body, **{"If-Match": tag}).status_code == 200

    assert client.get("/api/vaults/api-keys", **{"If-None-Match": tag}).status_code == 200
    stale = {"If-Match": tag}
    for answer in (
        client.post("/api/vaults/api-keys/entries", body, **stale),
        client.delete("/api/vaults/api-keys/entries/DEBUG_MODE", **stale),
        client.delete("/api/vaults/api-keys", **stale),
    ):
        assert (answer.status_code, problem(answer)["code"]) == (412, "precondition_failed")
    assert VaultEntry.objects.count() == 2
