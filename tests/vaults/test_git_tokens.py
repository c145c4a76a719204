"""The usage of entries as variables and git tokens, and their hosts."""

from typing import Any

import pytest
from django.db import IntegrityError, transaction

from runqy.audit.models import AuditRecord
from runqy.configuration.documents import DocumentKind
from runqy.configuration.models import StoredDocument
from runqy.configuration.snapshot import get_snapshot
from runqy.errors import VaultInvalid, VaultUnavailable
from vaults.entry_rules import EntryUsage, Reference, git_token_error
from vaults.models import EntryVersion, VaultEntry
from vaults.operations import EntryChange, create_vault, save_vault, set_entry
from vaults.worker_secrets import get_worker_secrets, list_secret_errors

pytestmark = pytest.mark.usefixtures("configuration")

TOKEN = "vault://github/PAT"
REPOSITORY = "https://github.com/org/repo.git"


@pytest.fixture(autouse=True)
def _vault(configuration: None) -> None:
    create_vault(name="github")


def put(value: str = "ghp_planted", key: str = "PAT", **declared: Any) -> VaultEntry:
    return set_entry(vault="github", key=key, value=value, **declared)


def token_for(git_url: str) -> str:
    return get_worker_secrets([], git_token=TOKEN, git_url=git_url, max_age_s=0).git_token


def test_a_variable_is_no_token_whatever_hosts_it_has() -> None:
    reference = Reference("github", "PAT")

    def error(usage: EntryUsage) -> str | None:
        return git_token_error(reference, usage=usage, git_hosts=["github.com"], git_url=REPOSITORY)

    assert error(EntryUsage.GIT_TOKEN) is None
    assert "not declared as a git token" in (error(EntryUsage.ENVIRONMENT) or "")


def test_an_entry_declared_for_the_host_is_the_token() -> None:
    put(git_hosts=["GitHub.com:443"])

    assert token_for(REPOSITORY) == "ghp_planted"
    assert token_for("https://GITHUB.com.:443/org/other.git") == "ghp_planted"


@pytest.mark.parametrize(
    "columns", [{"git_hosts": ["evil.example.com"]}, {"usage": "environment", "git_hosts": []}, {"is_secret": False}]
)
def test_an_entry_that_was_declared_otherwise_in_the_database_cannot_be_decrypted(columns: dict[str, Any]) -> None:
    put(usage=EntryUsage.BOTH, git_hosts=["github.com"])
    VaultEntry.objects.update(**columns)
    put(key="OTHER")  # publishes the vault

    with pytest.raises(VaultUnavailable, match="github/PAT cannot be decrypted"):
        get_worker_secrets(["github"], git_token=TOKEN, git_url="https://evil.example.com/a/b.git")


def test_an_undeclared_entry_is_rejected_and_the_error_names_entry_and_host() -> None:
    put()

    with pytest.raises(VaultUnavailable) as caught:
        token_for(REPOSITORY)

    assert caught.value.detail == (
        "The entry vault://github/PAT is not declared as a git token, and may not be sent to github.com: "
        "add github.com to its git hosts, with the permission to change the vault, or change git_token."
    )


@pytest.mark.parametrize(
    "git_url",
    [
        "https://evil.com/org/repo.git",
        "https://github.com:8443/org/repo.git",
        "https://github.com.evil.com/repo.git",
        "https://github.com@evil.com/repo.git",
        "https://evil.com\\@github.com/repo.git",
        "https://www.github.com/org/repo.git",
    ],
)
def test_another_host_does_not_receive_the_token(git_url: str) -> None:
    put(git_hosts=["github.com"])

    with pytest.raises(VaultUnavailable):
        token_for(git_url)
    assert list_secret_errors([], git_token=TOKEN, git_url=git_url)


@pytest.mark.parametrize("git_url", ["git@github.com:org/repo.git", "ssh://git@evil.com/r.git", "file:///srv/r.git"])
def test_without_https_no_token_is_delivered(git_url: str) -> None:
    put(git_hosts=["github.com"])

    assert token_for(git_url) == ""


def test_tasks_do_not_receive_entries_that_are_only_git_tokens() -> None:
    put(git_hosts=["github.com"])
    put(key="BOTH", usage=EntryUsage.BOTH, git_hosts=["github.com"])
    put(key="MODEL", value="small")

    assert get_worker_secrets(["github"], max_age_s=0).values == {"BOTH": "ghp_planted", "MODEL": "small"}


def test_a_new_value_keeps_usage_and_hosts() -> None:
    put(git_hosts=["github.com"])

    entry = put("ghp_new")

    assert (entry.usage, entry.git_hosts) == ("git_token", ["github.com"])
    assert token_for(REPOSITORY) == "ghp_new"


def test_a_variable_with_hosts_is_still_a_variable() -> None:
    put()

    assert put(git_hosts=["github.com"]).usage == EntryUsage.BOTH


def test_a_variable_again_has_no_hosts() -> None:
    put(git_hosts=["github.com"])

    entry = put(usage=EntryUsage.ENVIRONMENT)

    assert entry.git_hosts == []
    with pytest.raises(VaultUnavailable):
        token_for(REPOSITORY)


@pytest.mark.parametrize(
    ("declared", "reason"),
    [
        ({"usage": EntryUsage.GIT_TOKEN}, "requires the hosts"),
        ({"usage": EntryUsage.GIT_TOKEN, "git_hosts": []}, "requires the hosts"),
        ({"usage": EntryUsage.ENVIRONMENT, "git_hosts": ["github.com"]}, "Hosts require the usage"),
        ({"git_hosts": ["https://github.com"]}, "'https://github.com': A host is written like"),
        ({"git_hosts": [f"h{number}" for number in range(21)]}, "at most 20 hosts"),
    ],
)
def test_an_invalid_declaration_is_rejected(declared: dict[str, Any], reason: str) -> None:
    with pytest.raises(VaultInvalid, match=reason):
        put(**declared)

    assert not VaultEntry.objects.exists()


@pytest.mark.parametrize("columns", [{"usage": "git_token"}, {"git_hosts": ["github.com"]}])
def test_the_database_refuses_an_entry_whose_hosts_disagree_with_its_usage(columns: dict[str, Any]) -> None:
    entry = put()

    with pytest.raises(IntegrityError), transaction.atomic():
        VaultEntry.objects.filter(pk=entry.pk).update(**columns)


def test_a_declaration_is_recorded_without_a_new_version() -> None:
    put()
    before = StoredDocument.objects.get(kind=DocumentKind.VAULT).worker_revision

    assert put(git_hosts=["github.com"]).version == 1

    changes = AuditRecord.objects.filter(action="vault_entry.set").latest("pk").changes
    assert '"github.com"' in changes
    assert EntryVersion.objects.count() == 1
    assert StoredDocument.objects.get(kind=DocumentKind.VAULT).worker_revision > before
    assert get_snapshot(0).find(DocumentKind.VAULT, "github").revision > before


def restrict(usage: EntryUsage, git_hosts: list[str]) -> None:
    save_vault(name="github", description="", edits=[EntryChange(key="PAT", usage=usage, git_hosts=git_hosts)])


def test_an_entry_can_be_restricted_without_its_value() -> None:
    put(usage=EntryUsage.BOTH, git_hosts=["github.com", "gitlab.com"])

    restrict(EntryUsage.GIT_TOKEN, ["github.com"])

    assert token_for(REPOSITORY) == "ghp_planted"
    assert get_worker_secrets(["github"], max_age_s=0).values == {}


@pytest.mark.parametrize(
    ("usage", "git_hosts"),
    [
        (EntryUsage.GIT_TOKEN, ["evil.com"]),
        (EntryUsage.GIT_TOKEN, ["evil.com", "github.com"]),
        (EntryUsage.BOTH, ["github.com"]),
        (EntryUsage.ENVIRONMENT, []),
    ],
)
def test_an_entry_cannot_be_extended_without_its_value(usage: EntryUsage, git_hosts: list[str]) -> None:
    put(git_hosts=["github.com"])

    with pytest.raises(VaultInvalid, match="Enter the value again"):
        restrict(usage, git_hosts)

    assert VaultEntry.objects.get().git_hosts == ["github.com"]
