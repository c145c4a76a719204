"""The vault routes: success, invalid input and permissions."""

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from queues.models import QueueSource
from queues.operations import save_queue
from tests.api.client import ApiClient, problem
from tests.queues.samples import spec
from tests.vaults.api.routes import SECRET, content
from vaults.api.serializers import SecretSerializer, SetEntrySerializer
from vaults.entry_rules import EntryUsage
from vaults.models import Vault, VaultEntry
from vaults.operations import set_entry
from vaults.worker_secrets import get_worker_secrets

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


def test_vaults_are_listed_with_their_counts(client: ApiClient) -> None:
    assert content(client.get("/api/vaults")) == {
        "vaults": [{"name": "api-keys", "description": "API keys for external services", "entry_count": 2}],
        "count": 1,
    }


def test_a_vault_is_created(client: ApiClient) -> None:
    response = client.post("/api/vaults", {"name": "more"})

    assert content(response, 201) == {
        "message": "vault created successfully",
        "published": True,
        "vault": {"name": "more", "description": ""},
    }
    assert Vault.objects.filter(name="more").exists()


def test_an_existing_vault_is_not_created_again(client: ApiClient) -> None:
    response = client.post("/api/vaults", {"name": "api-keys", "description": "another"})

    assert (response.status_code, problem(response)["code"]) == (409, "vault_exists")
    assert Vault.objects.get().description == "API keys for external services"


def test_a_vault_is_shown_with_its_secrets_masked(client: ApiClient) -> None:
    vault = content(client.get("/api/vaults/api-keys"))

    assert vault.keys() == {"name", "description", "entries", "created_at", "updated_at"}
    assert [(e["key"], e["value"], e["is_secret"]) for e in vault["entries"]] == [
        ("DEBUG_MODE", "true", False),
        ("OPENAI_API_KEY", "sk****yz", True),
    ]
    for owner in (vault, *vault["entries"]):
        assert _TIME.fullmatch(owner["created_at"])
        assert _TIME.fullmatch(owner["updated_at"])


def test_entries_are_listed_with_secrets_masked(client: ApiClient) -> None:
    listed = content(client.get("/api/vaults/api-keys/entries"))

    assert listed["count"] == 2
    assert listed["entries"] == content(client.get("/api/vaults/api-keys"))["entries"]


def test_an_entry_is_set_and_updated(client: ApiClient) -> None:
    response = client.post("/api/vaults/api-keys/entries", {"key": "DEBUG_MODE", "value": "false", "is_secret": False})

    assert content(response) == {"message": "entry set successfully", "version": 2, "published": True}
    entries = content(client.get("/api/vaults/api-keys/entries"))["entries"]
    assert [e["value"] for e in entries if e["key"] == "DEBUG_MODE"] == ["false"]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("post", "/api/vaults/api-keys/entries", {"key": "DEBUG_MODE", "value": "true"}),
        ("put", "/api/vaults/api-keys/entries/DEBUG_MODE", {"value": "true"}),
        ("patch", "/api/vaults/api-keys/entries", {"values": {"DEBUG_MODE": "true"}}),
    ],
)
def test_workers_are_told_to_replace_processes_at_once_also_if_the_value_is_the_same(
    client: ApiClient, method: str, path: str, body: dict[str, Any]
) -> None:
    getattr(client, method)(path, body)
    before = get_worker_secrets(["api-keys"], max_age_s=0).replacements

    getattr(client, method)(path, body | {"replace_at_once": True})

    after = get_worker_secrets(["api-keys"], max_age_s=0).replacements
    assert (before, after) == ({"api-keys": 0}, {"api-keys": 1})


def test_many_entries_are_set_together(client: ApiClient) -> None:
    path = "/api/vaults/api-keys/entries"

    response = client.patch(path, {"values": {"OPENAI_API_KEY": SECRET, "DEBUG_MODE": "false", "NEW": SECRET}})

    assert content(response)["changed"] == ["DEBUG_MODE", "NEW"]
    entries = {entry["key"]: entry for entry in content(client.get(path))["entries"]}
    assert [entries[key]["version"] for key in ("OPENAI_API_KEY", "DEBUG_MODE", "NEW")] == [1, 2, 1]
    assert (entries["NEW"]["is_secret"], SECRET in str(entries)) == (True, False)


@pytest.mark.parametrize("wrong", [{"PATH": "x"}, {"B": ""}, {"B": 1}, {"a b": "x"}])
def test_none_of_many_entries_is_set_if_one_is_invalid(client: ApiClient, wrong: dict[str, Any]) -> None:
    before = content(client.get("/api/vaults/api-keys"))

    response = client.patch("/api/vaults/api-keys/entries", {"values": {"A": "1", **wrong}})

    assert response.status_code == 400
    assert all(next(iter(wrong)) in error for error in problem(response)["errors"])
    assert content(client.get("/api/vaults/api-keys")) == before


def test_an_entry_is_secret_by_default(client: ApiClient) -> None:
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
    assert deleted == {"message": "vault deleted successfully", "published": True, "warnings": []}
    assert not VaultEntry.objects.exists()


def test_deleting_a_vault_names_the_queues_that_use_it(client: ApiClient) -> None:
    by_token = replace(spec("sms").deployment, git_url="https://h/r", git_token="vault://api-keys/DEBUG_MODE")
    set_entry(vault="api-keys", key="DEBUG_MODE", value="t", usage=EntryUsage.GIT_TOKEN, git_hosts=["h"])
    for queue in (
        spec("mail", deployment=replace(by_token, git_token="", vaults=("api-keys",))),
        spec("other"),
        spec("sms", deployment=by_token),
    ):
        save_queue(spec=queue, source=QueueSource.API)

    deleted = content(client.delete("/api/vaults/api-keys"))

    assert deleted["warnings"] == [
        "Workers cannot register for the queue mail, which uses the vault.",
        "Workers cannot register for the queue sms, which uses the vault.",
    ]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, "name: This field is required."),
        ({"name": 7}, "name: Must be a string."),
        ({"name": "-x"}, "Use 1 to 64"),
        ({"name": "a/b"}, "Use 1 to 64"),
        ({"name": "x", "description": "a\0b"}, "description: Null characters are not allowed."),
        ({"name": "x", "description": None}, "description: This field may not be null."),
        ({"name": "x", "descripton": "y"}, "descripton: Unknown field."),
        ([], "must be a JSON object"),
        (b"{", "is not valid JSON"),
        (b'{"name":"\\ud800abcdefgh"}', "The body"),
    ],
)
def test_an_invalid_vault_is_rejected(client: ApiClient, body: Any, expected: str) -> None:
    response = client.post("/api/vaults", body)

    assert (response.status_code, expected in problem(response)["errors"][0]) == (400, True), response.content


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"value": "v"}, "key: This field is required."),
        ({"key": "K"}, "value: This field is required."),
        ({"key": "K", "value": 1}, "value: Must be a string."),
        ({"key": "K", "value": ""}, "value: This field may not be blank."),
        ({"key": "K", "value": "x" * 65537}, "64 KiB"),
        ({"key": "1K", "value": "v"}, "Use letters"),
        ({"key": "PATH", "value": "v"}, "reserved"),
        ({"key": "RUNQY_X", "value": "v"}, "reserved"),
        ({"key": "K", "value": "v", "is_secret": "no"}, "is_secret: Must be true or false."),
    ],
)
def test_an_invalid_entry_is_rejected(client: ApiClient, body: Any, expected: str) -> None:
    response = client.post("/api/vaults/api-keys/entries", body)

    assert (response.status_code, expected in problem(response)["errors"][0]) == (400, True), response.content


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/vaults/api-keys/entries", {"key": SECRET, "value": "v"}),
        ("/api/vaults/api-keys/entries", {"key": "K", "value": [SECRET]}),
        ("/api/vaults/api-keys/entries", {"key": "K", "value": f"{SECRET}\0"}),
        ("/api/vaults/api-keys/entries", {"key": "K", "value": "v", "is_secret": SECRET}),
        ("/api/vaults/api-keys/entries", {"key": "K", "value": "v", "expected_version": SECRET}),
    ],
)
def test_errors_do_not_contain_the_request(client: ApiClient, path: str, body: Any) -> None:
    response = client.post(path, body)

    assert (response.status_code, SECRET in str(problem(response))) == (400, False), response.content


@pytest.mark.parametrize("serializer", [SetEntrySerializer])
def test_the_repr_of_a_body_does_not_show_its_secret(serializer: type[SecretSerializer]) -> None:
    body = serializer(data={"value": SECRET})

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
def test_unknown_vaults_and_entries_are_not_found(client: ApiClient, method: str, path: str, code: str) -> None:
    response = getattr(client, method)(path)

    assert (response.status_code, problem(response)["code"]) == (404, code)


@pytest.mark.parametrize("name", ["%00", "%FF", "x" * 5000, "%F0%9F%92%A9"])
def test_an_unusual_name_is_not_found(client: ApiClient, name: str) -> None:
    body = {"key": "K", "value": "v"}
    for response in (
        client.get(f"/api/vaults/{name}"),
        client.delete(f"/api/vaults/{name}"),
        client.get(f"/api/vaults/{name}/entries"),
        client.post(f"/api/vaults/{name}/entries", body),
        client.delete(f"/api/vaults/api-keys/entries/{name}"),
        client.get(f"/api/vaults/api-keys/entries/{name}"),
        client.get(f"/api/vaults/api-keys/entries/{name}/versions"),
    ):
        assert response.status_code == 404, response.content


def test_an_entry_cannot_be_set_in_an_unknown_vault(client: ApiClient) -> None:
    response = client.post("/api/vaults/nope/entries", {"key": "K", "value": "v"})

    assert (response.status_code, problem(response)["code"]) == (404, "vault_not_found")


def test_an_entry_is_put_and_shown(client: ApiClient) -> None:
    response = client.put("/api/vaults/api-keys/entries/OPENAI_API_KEY", {"value": "sk-another-key-abc"})

    assert content(response) == {"message": "entry set successfully", "version": 2, "published": True}
    response = client.get("/api/vaults/api-keys/entries/OPENAI_API_KEY")
    entry = content(response)
    assert (entry["value"], entry["version"], entry["is_secret"]) == ("sk****bc", 2, True)
    assert entry["updated_by"] == "admin key of the environment"
    known = client.get("/api/vaults/api-keys/entries/OPENAI_API_KEY", **{"If-None-Match": response["ETag"]})
    assert known.status_code == 304


CHANGES: list[tuple[str, str, Any]] = [
    ("post", "/api/vaults/api-keys/entries", {"key": "DEBUG_MODE", "value": "v", "expected_version": 7}),
    ("post", "/api/vaults/api-keys/entries", {"key": "DEBUG_MODE", "value": "v", "expected_version": 0}),
    ("put", "/api/vaults/api-keys/entries/DEBUG_MODE", {"value": "v", "expected_version": 2}),
    ("delete", "/api/vaults/api-keys/entries/DEBUG_MODE?expected_version=0", None),
]


@pytest.mark.parametrize(("method", "path", "body"), CHANGES)
def test_a_change_that_expects_another_version_is_rejected_with_the_present_one(
    client: ApiClient, method: str, path: str, body: Any
) -> None:
    before = client.get("/api/vaults/api-keys")["ETag"]

    response = getattr(client, method)(path, *([body] if body else []))

    error = problem(response)
    assert (response.status_code, error["code"], error["present_version"]) == (412, "vault_entry_changed", 1)
    assert client.get("/api/vaults/api-keys")["ETag"] == before


def test_a_change_that_expects_the_present_version_is_made(client: ApiClient) -> None:
    path = "/api/vaults/api-keys/entries/FRESH"
    assert content(client.put(path, {"value": "1", "expected_version": 0}))["version"] == 1
    assert content(client.put(path, {"value": "2", "expected_version": 1}))["version"] == 2
    assert content(client.put(path, {"value": "3", "expected_version": None}))["version"] == 3
    assert client.delete(f"{path}?expected_version=3").status_code == 200
    response = client.delete(f"{path}?expected_version=3")
    assert (response.status_code, problem(response)["present_version"]) == (412, 0)
    assert client.delete(f"{path}?expected_version=0").status_code == 404


@pytest.mark.parametrize("version", ["", "-1", "x", "1.0", "2147483648", "9" * 5000, "\u0661"])
def test_an_invalid_expected_version_is_rejected(client: ApiClient, version: str) -> None:
    response = client.delete(f"/api/vaults/api-keys/entries/DEBUG_MODE?expected_version={version}")

    assert (response.status_code, "expected_version" in problem(response)["errors"][0]) == (400, True)
    assert VaultEntry.objects.filter(key="DEBUG_MODE").exists()


@pytest.mark.parametrize("version", [-1, 1.5, "1", True, 2**31])
def test_an_expected_version_in_a_body_is_a_whole_number(client: ApiClient, version: Any) -> None:
    response = client.put("/api/vaults/api-keys/entries/DEBUG_MODE", {"value": "v", "expected_version": version})

    assert (response.status_code, "expected_version" in problem(response)["errors"][0]) == (400, True), response.content


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
def test_an_invalid_page_of_versions_is_rejected(client: ApiClient, query: str) -> None:
    response = client.get(f"/api/vaults/api-keys/entries/DEBUG_MODE/versions?{query}")

    assert response.status_code == 400
    problem(response)


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
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_without_a_master_key_there_are_no_vaults(client: ApiClient, settings: Any, method: str, path: str) -> None:
    settings.RUNQY_VAULT_MASTER_KEY = ""

    response = getattr(client, method)(path)

    assert (response.status_code, problem(response)["code"]) == (503, "vaults_locked")
    assert response["Cache-Control"] == "no-store"


def test_a_value_that_cannot_be_decrypted_is_named_and_there_is_no_partial_response(client: ApiClient) -> None:
    VaultEntry.objects.filter(key="OPENAI_API_KEY").update(ciphertext=b"altered")

    response = client.get("/api/vaults/api-keys")

    assert response.status_code == 503
    assert "OPENAI_API_KEY" in problem(response)["detail"]
    assert b"true" not in response.content


def test_a_misspelled_condition_is_rejected(client: ApiClient) -> None:
    body = {"value": "other", "expected_versoin": 7}

    by_path = client.put("/api/vaults/api-keys/entries/DEBUG_MODE", body)
    by_body = client.post("/api/vaults/api-keys/entries", body | {"key": "DEBUG_MODE"})

    for response in (by_path, by_body):
        assert (response.status_code, problem(response)["errors"]) == (400, ["expected_versoin: Unknown field."])
    entries = json.loads(client.get("/api/vaults/api-keys/entries").content)["entries"]
    assert [entry["version"] for entry in entries if entry["key"] == "DEBUG_MODE"] == [1]


def test_a_change_with_an_outdated_etag_is_rejected(client: ApiClient) -> None:
    tag = client.get("/api/vaults/api-keys")["ETag"]
    known = client.get("/api/vaults/api-keys/entries", **{"If-None-Match": tag})
    assert (known.status_code, known["ETag"], known["Cache-Control"]) == (304, tag, "no-store")

    body = {"key": "DEBUG_MODE", "value": "other", "is_secret": False}
    assert client.post("/api/vaults/api-keys/entries", body, **{"If-Match": tag}).status_code == 200

    assert client.get("/api/vaults/api-keys", **{"If-None-Match": tag}).status_code == 200
    stale = {"If-Match": tag}
    for response in (
        client.post("/api/vaults/api-keys/entries", body, **stale),
        client.delete("/api/vaults/api-keys/entries/DEBUG_MODE", **stale),
        client.delete("/api/vaults/api-keys", **stale),
    ):
        assert (response.status_code, problem(response)["code"]) == (412, "precondition_failed")
    assert VaultEntry.objects.count() == 2


def test_an_entry_is_declared_as_a_git_token_and_keeps_the_declaration(client: ApiClient) -> None:
    path = "/api/vaults/api-keys/entries/PAT"
    content(client.put(path, {"value": "ghp_one", "git_hosts": ["GitHub.com."]}))
    content(client.put(path, {"value": "ghp_two"}))

    entry = content(client.get(path))
    assert (entry["usage"], entry["git_hosts"], entry["version"]) == (
        "git_token",
        ["github.com"],
        2,
    )
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
def test_an_invalid_declaration_is_rejected(client: ApiClient, declared: dict[str, Any], code: str) -> None:
    refused = client.put("/api/vaults/api-keys/entries/PAT", {"value": "ghp_one"} | declared)

    assert (refused.status_code, problem(refused)["code"]) == (400, code)
    assert not VaultEntry.objects.filter(key="PAT").exists()
