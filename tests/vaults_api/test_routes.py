"""The vault routes: each as the reference shows it, and what each refuses."""

import json
import re
from typing import Any

import pytest

from tests.api.client import ApiClient, problem
from tests.support.environment import CLIENT_KEY, WORKER_KEY
from tests.vaults_api.routes import PHRASE, SECRET, content
from vaults.api.serializers import ExportVaultSerializer, ImportVaultSerializer, SecretSerializer, SetEntrySerializer
from vaults.models import Vault, VaultEntry

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


def test_vaults_are_listed_with_their_counts(client: ApiClient) -> None:
    assert content(client.get("/api/vaults")) == {
        "vaults": [{"name": "api-keys", "description": "API keys for external services", "entry_count": 2}],
        "count": 1,
    }


def test_a_vault_is_created(client: ApiClient) -> None:
    answer = client.post("/api/vaults", {"name": "more"})

    assert content(answer, 201) == {
        "message": "vault created successfully",
        "published": True,
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

    assert content(answer) == {"message": "entry set successfully", "version": 2, "published": True}
    entries = content(client.get("/api/vaults/api-keys/entries"))["entries"]
    assert [e["value"] for e in entries if e["key"] == "DEBUG_MODE"] == ["false"]


def test_an_entry_is_a_secret_unless_it_says_otherwise(client: ApiClient) -> None:
    client.post("/api/vaults/api-keys/entries", {"key": "NEW", "value": SECRET})

    entry = next(e for e in content(client.get("/api/vaults/api-keys"))["entries"] if e["key"] == "NEW")

    assert (entry["is_secret"], entry["value"]) == (True, "sk****yz")


def test_an_entry_is_deleted(client: ApiClient) -> None:
    assert content(client.delete("/api/vaults/api-keys/entries/DEBUG_MODE")) == {
        "message": "entry deleted successfully",
        "published": True,
    }
    assert not VaultEntry.objects.filter(key="DEBUG_MODE").exists()


def test_a_vault_is_deleted_with_its_entries(client: ApiClient) -> None:
    deleted = content(client.delete("/api/vaults/api-keys"))
    assert deleted == {"message": "vault deleted successfully", "published": True}
    assert not VaultEntry.objects.exists()


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "name: This field is required."),
        ({"name": 7}, "name: Must be a string."),
        ({"name": "-x"}, "a vault's name has"),
        ({"name": "a/b"}, "a vault's name has"),
        ({"name": "x", "description": "a\0b"}, "description: Null characters are not allowed."),
        ({"name": "x", "description": None}, "description: This field may not be null."),
        ({"name": "x", "descripton": "y"}, "descripton: Unknown field."),
        ([], "must be a JSON object"),
        (b"{", "is not valid JSON"),
        (b'{"name":"\\ud800abcdefgh"}', "The body"),
    ],
)
def test_a_vault_that_is_not_well_described_is_refused(client: ApiClient, body: Any, says: str) -> None:
    answer = client.post("/api/vaults", body)

    assert (answer.status_code, says in problem(answer)["errors"][0]) == (400, True), answer.content


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"value": "v"}, "key: This field is required."),
        ({"key": "K"}, "value: This field is required."),
        ({"key": "K", "value": 1}, "value: Must be a string."),
        ({"key": "K", "value": ""}, "value: This field may not be blank."),
        ({"key": "K", "value": "x" * 65537}, "64 KiB"),
        ({"key": "1K", "value": "v"}, "a variable's name has"),
        ({"key": "PATH", "value": "v"}, "reserved"),
        ({"key": "RUNQY_X", "value": "v"}, "reserved"),
        ({"key": "K", "value": "v", "is_secret": "no"}, "is_secret: Must be true or false."),
    ],
)
def test_a_wrong_entry_is_refused(client: ApiClient, body: Any, says: str) -> None:
    answer = client.post("/api/vaults/api-keys/entries", body)

    assert (answer.status_code, says in problem(answer)["errors"][0]) == (400, True), answer.content


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/vaults/api-keys/entries", {"key": SECRET, "value": "v"}),
        ("/api/vaults/api-keys/entries", {"key": "K", "value": [SECRET]}),
        ("/api/vaults/api-keys/entries", {"key": "K", "value": f"{SECRET}\0"}),
        ("/api/vaults/api-keys/entries", {"key": "K", "value": "v", "is_secret": SECRET}),
        ("/api/vaults/api-keys/entries", {"key": "K", "value": "v", "expected_version": SECRET}),
        ("/api/vaults/api-keys/export", {"passphrase": [SECRET]}),
        ("/api/vaults/api-keys/export", {"passphrase": SECRET * 100}),
        ("/api/vaults/import", {"passphrase": PHRASE, "export": SECRET}),
        ("/api/vaults/import", {"passphrase": PHRASE, "export": {}, "dry_run": SECRET}),
        ("/api/vaults/import", {"passphrase": PHRASE, "export": {}, "name": f"{SECRET} "}),
        ("/api/vaults/import", {"passphrase": SECRET, "export": {}}),
    ],
)
def test_no_error_repeats_what_was_sent(client: ApiClient, path: str, body: Any) -> None:
    answer = client.post(path, body)

    assert (answer.status_code, SECRET in str(problem(answer))) == (400, False), answer.content


@pytest.mark.parametrize("serializer", [SetEntrySerializer, ExportVaultSerializer, ImportVaultSerializer])
def test_the_repr_of_a_body_does_not_show_its_secret(serializer: type[SecretSerializer]) -> None:
    body = serializer(data={"value": SECRET, "passphrase": SECRET})

    assert SECRET not in repr(body)


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("get", "/api/vaults/nope", "vault_not_found"),
        ("delete", "/api/vaults/nope", "vault_not_found"),
        ("get", "/api/vaults/nope/entries", "vault_not_found"),
        ("get", "/api/vaults/nope/entries/K", "vault_not_found"),
        ("get", "/api/vaults/nope/entries/K/versions", "vault_not_found"),
        ("get", "/api/vaults/api-keys/entries/NOPE", "vault_entry_not_found"),
        ("get", "/api/vaults/api-keys/entries/NOPE/versions", "vault_entry_not_found"),
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
        client.get(f"/api/vaults/api-keys/entries/{name}"),
        client.get(f"/api/vaults/api-keys/entries/{name}/versions"),
        client.post(f"/api/vaults/{name}/export", {"passphrase": PHRASE}),
    ):
        assert answer.status_code == 404, answer.content


def test_an_entry_cannot_be_set_in_a_vault_that_is_not_there(client: ApiClient) -> None:
    answer = client.post("/api/vaults/nope/entries", {"key": "K", "value": "v"})

    assert (answer.status_code, problem(answer)["code"]) == (404, "vault_not_found")


def test_an_entry_is_put_and_shown(client: ApiClient) -> None:
    answer = client.put("/api/vaults/api-keys/entries/OPENAI_API_KEY", {"value": "sk-another-key-abc"})

    assert content(answer) == {"message": "entry set successfully", "version": 2, "published": True}
    shown = client.get("/api/vaults/api-keys/entries/OPENAI_API_KEY")
    entry = content(shown)
    assert (entry["value"], entry["version"], entry["is_secret"]) == ("sk****bc", 2, True)
    assert entry["updated_by"] == "admin key of the environment"
    known = client.get("/api/vaults/api-keys/entries/OPENAI_API_KEY", **{"If-None-Match": shown["ETag"]})
    assert known.status_code == 304


CHANGES: list[tuple[str, str, Any]] = [
    ("post", "/api/vaults/api-keys/entries", {"key": "DEBUG_MODE", "value": "v", "expected_version": 7}),
    ("post", "/api/vaults/api-keys/entries", {"key": "DEBUG_MODE", "value": "v", "expected_version": 0}),
    ("put", "/api/vaults/api-keys/entries/DEBUG_MODE", {"value": "v", "expected_version": 2}),
    ("delete", "/api/vaults/api-keys/entries/DEBUG_MODE?expected_version=0", None),
]


@pytest.mark.parametrize(("method", "path", "body"), CHANGES)
def test_a_change_meant_for_another_version_is_refused_with_the_present_one(
    client: ApiClient, method: str, path: str, body: Any
) -> None:
    before = client.get("/api/vaults/api-keys")["ETag"]

    answer = getattr(client, method)(path, *([body] if body else []))

    told = problem(answer)
    assert (answer.status_code, told["code"], told["present_version"]) == (412, "vault_entry_changed", 1)
    assert client.get("/api/vaults/api-keys")["ETag"] == before


def test_a_change_meant_for_the_present_version_is_made(client: ApiClient) -> None:
    path = "/api/vaults/api-keys/entries/FRESH"
    assert content(client.put(path, {"value": "1", "expected_version": 0}))["version"] == 1
    assert content(client.put(path, {"value": "2", "expected_version": 1}))["version"] == 2
    assert content(client.put(path, {"value": "3", "expected_version": None}))["version"] == 3
    assert client.delete(f"{path}?expected_version=3").status_code == 200
    answer = client.delete(f"{path}?expected_version=3")
    assert (answer.status_code, problem(answer)["present_version"]) == (412, 0)
    assert client.delete(f"{path}?expected_version=0").status_code == 404


@pytest.mark.parametrize("version", ["", "-1", "x", "1.0", "2147483648", "9" * 5000, "\u0661"])
def test_a_version_that_is_no_number_is_refused(client: ApiClient, version: str) -> None:
    answer = client.delete(f"/api/vaults/api-keys/entries/DEBUG_MODE?expected_version={version}")

    assert (answer.status_code, "expected_version" in problem(answer)["errors"][0]) == (400, True)
    assert VaultEntry.objects.filter(key="DEBUG_MODE").exists()


@pytest.mark.parametrize("version", [-1, 1.5, "1", True, 2**31])
def test_an_expected_version_in_a_body_is_a_whole_number(client: ApiClient, version: Any) -> None:
    answer = client.put("/api/vaults/api-keys/entries/DEBUG_MODE", {"value": "v", "expected_version": version})

    assert (answer.status_code, "expected_version" in problem(answer)["errors"][0]) == (400, True), answer.content


def test_versions_are_listed_page_by_page(client: ApiClient) -> None:
    path = "/api/vaults/api-keys/entries/DEBUG_MODE"
    client.put(path, {"value": "false", "is_secret": False})
    client.delete(path)

    first = client.get(f"{path}/versions?limit=2")
    page = content(first)
    rest = content(client.get(page["next"]))

    assert [(row["version"], row["event"]) for row in page["versions"]] == [(3, "deleted"), (2, "set")]
    assert f'<{page["next"]}>; rel="next"' == first["Link"]
    assert [(row["version"], row["event"]) for row in rest["versions"]] == [(1, "set")]
    assert (rest["count"], rest["next"]) == (1, None)
    row = rest["versions"][0]
    assert (row["actor_kind"], row["actor"], bool(_TIME.fullmatch(row["at"]))) == (
        "key",
        "admin key of the environment",
        True,
    )


@pytest.mark.parametrize("query", ["limit=0", "cursor=x", "cursor=e30", "cursor=eyJiZWZvcmUiOiJhIn0"])
def test_a_page_of_versions_that_makes_no_sense_is_refused(client: ApiClient, query: str) -> None:
    answer = client.get(f"/api/vaults/api-keys/entries/DEBUG_MODE/versions?{query}")

    assert answer.status_code == 400
    problem(answer)


ROUTES = [
    ("get", "/api/vaults"),
    ("post", "/api/vaults"),
    ("get", "/api/vaults/api-keys"),
    ("delete", "/api/vaults/api-keys"),
    ("get", "/api/vaults/api-keys/entries"),
    ("post", "/api/vaults/api-keys/entries"),
    ("get", "/api/vaults/api-keys/entries/DEBUG_MODE"),
    ("put", "/api/vaults/api-keys/entries/DEBUG_MODE"),
    ("delete", "/api/vaults/api-keys/entries/DEBUG_MODE"),
    ("get", "/api/vaults/api-keys/entries/DEBUG_MODE/versions"),
    ("post", "/api/vaults/api-keys/export"),
    ("post", "/api/vaults/import"),
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


def test_a_misspelled_condition_changes_nothing(client: ApiClient) -> None:
    body = {"value": "other", "expected_versoin": 7}

    by_path = client.put("/api/vaults/api-keys/entries/DEBUG_MODE", body)
    by_body = client.post("/api/vaults/api-keys/entries", body | {"key": "DEBUG_MODE"})

    for answer in (by_path, by_body):
        assert (answer.status_code, problem(answer)["errors"]) == (400, ["expected_versoin: Unknown field."])
    entries = json.loads(client.get("/api/vaults/api-keys/entries").content)["entries"]
    assert [entry["version"] for entry in entries if entry["key"] == "DEBUG_MODE"] == [1]


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


def test_an_entry_is_declared_as_a_git_token_and_stays_one(client: ApiClient) -> None:
    path = "/api/vaults/api-keys/entries/PAT"
    content(client.put(path, {"value": "ghp_one", "git_hosts": ["GitHub.com."]}))
    content(client.put(path, {"value": "ghp_two"}))

    shown = content(client.get(path))
    assert (shown["usage"], shown["git_hosts"], shown["version"]) == ("git_token", ["github.com"], 2)
    other = content(client.get("/api/vaults/api-keys/entries/OPENAI_API_KEY"))
    assert (other["usage"], other["git_hosts"]) == ("environment", [])


@pytest.mark.parametrize(
    ("declared", "code"),
    [
        ({"usage": "git_token"}, "vault_invalid"),
        ({"usage": "environment", "git_hosts": ["github.com"]}, "vault_invalid"),
        ({"usage": "anything"}, "vault_invalid"),
        ({"git_hosts": ["https://github.com"]}, "vault_invalid"),
        ({"git_hosts": ["github.com@evil.com"]}, "vault_invalid"),
        ({"git_hosts": "github.com"}, "invalid_request"),
        ({"git_hosts": [1]}, "invalid_request"),
    ],
)
def test_a_wrong_declaration_is_refused(client: ApiClient, declared: dict[str, Any], code: str) -> None:
    refused = client.put("/api/vaults/api-keys/entries/PAT", {"value": "ghp_one"} | declared)

    assert (refused.status_code, problem(refused)["code"]) == (400, code)
    assert not VaultEntry.objects.filter(key="PAT").exists()
