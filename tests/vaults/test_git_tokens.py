"""Which entries are sent to which git servers, and which reach tasks."""

from typing import Any

import pytest

from runqy.audit.models import AuditRecord
from runqy.errors import VaultInvalid, VaultUnavailable
from runqy.publication.documents import Kind
from runqy.publication.models import StoredDocument
from runqy.publication.snapshot import get_snapshot
from vaults.models import EntryVersion, VaultEntry
from vaults.names import EntryUsage
from vaults.opening import find_vault_problems, open_vaults
from vaults.operations import create_vault, narrow_entry, set_entry

pytestmark = pytest.mark.usefixtures("configuration")

TOKEN = "vault://github/PAT"
REPOSITORY = "https://github.com/org/repo.git"


@pytest.fixture(autouse=True)
def _vault(configuration: None) -> None:
    create_vault(name="github")


def put(value: str = "ghp_planted", key: str = "PAT", **declared: Any) -> VaultEntry:
    return set_entry(vault="github", key=key, value=value, **declared)


def token_for(git_url: str) -> str:
    return open_vaults([], git_token=TOKEN, git_url=git_url, max_age_s=0).git_token


def test_an_entry_that_is_declared_for_the_host_is_the_token() -> None:
    put(git_hosts=["GitHub.com:443"])

    assert token_for(REPOSITORY) == "ghp_planted"
    assert token_for("https://GITHUB.com.:443/org/other.git") == "ghp_planted"


def test_an_entry_that_is_not_declared_is_refused_with_its_name_the_host_and_what_to_do() -> None:
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
def test_another_host_gets_nothing(git_url: str) -> None:
    put(git_hosts=["github.com"])

    with pytest.raises(VaultUnavailable):
        token_for(git_url)
    assert find_vault_problems([], git_token=TOKEN, git_url=git_url)


@pytest.mark.parametrize("git_url", ["git@github.com:org/repo.git", "ssh://git@evil.com/r.git", "file:///srv/r.git"])
def test_without_https_no_token_is_handed_out(git_url: str) -> None:
    put(git_hosts=["github.com"])

    assert token_for(git_url) == ""


def test_tasks_get_no_entry_that_is_a_token_alone() -> None:
    put(git_hosts=["github.com"])
    put(key="BOTH", usage=EntryUsage.BOTH, git_hosts=["github.com"])
    put(key="MODEL", value="small")

    assert open_vaults(["github"], max_age_s=0).values == {"BOTH": "ghp_planted", "MODEL": "small"}


def test_a_new_value_keeps_what_was_declared() -> None:
    put(git_hosts=["github.com"])

    entry = put("ghp_new")

    assert (entry.usage, entry.git_hosts) == ("git_token", ["github.com"])
    assert token_for(REPOSITORY) == "ghp_new"


def test_a_variable_with_hosts_stays_a_variable() -> None:
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
        ({"usage": EntryUsage.GIT_TOKEN}, "names the hosts"),
        ({"usage": EntryUsage.GIT_TOKEN, "git_hosts": []}, "names the hosts"),
        ({"usage": EntryUsage.ENVIRONMENT, "git_hosts": ["github.com"]}, "only a git token has hosts"),
        ({"git_hosts": ["https://github.com"]}, "'https://github.com': a host is written like"),
        ({"git_hosts": [f"h{number}" for number in range(21)]}, "at most 20 hosts"),
    ],
)
def test_what_cannot_be_declared_is_refused(declared: dict[str, Any], reason: str) -> None:
    with pytest.raises(VaultInvalid, match=reason):
        put(**declared)

    assert not VaultEntry.objects.exists()


def test_a_declaration_is_recorded_and_is_no_new_version() -> None:
    put()
    before = StoredDocument.objects.get(kind=Kind.VAULT).effective

    assert put(git_hosts=["github.com"]).version == 1

    changes = AuditRecord.objects.filter(action="vault_entry.set").latest("pk").changes
    assert '"github.com"' in changes
    assert EntryVersion.objects.count() == 1
    assert StoredDocument.objects.get(kind=Kind.VAULT).effective > before
    assert get_snapshot(0).find(Kind.VAULT, "github").revision > before


def test_without_its_value_an_entry_is_only_used_for_less() -> None:
    put(usage=EntryUsage.BOTH, git_hosts=["github.com", "gitlab.com"])

    narrow_entry(vault="github", key="PAT", usage=EntryUsage.GIT_TOKEN, git_hosts=["github.com"])

    assert token_for(REPOSITORY) == "ghp_planted"
    assert open_vaults(["github"], max_age_s=0).values == {}


@pytest.mark.parametrize(
    ("usage", "git_hosts"),
    [
        (EntryUsage.GIT_TOKEN, ["evil.com"]),
        (EntryUsage.GIT_TOKEN, ["evil.com", "github.com"]),
        (EntryUsage.BOTH, ["github.com"]),
        (EntryUsage.ENVIRONMENT, []),
    ],
)
def test_without_its_value_an_entry_is_used_for_nothing_more(usage: EntryUsage, git_hosts: list[str]) -> None:
    put(git_hosts=["github.com"])

    with pytest.raises(VaultInvalid, match="enter the value again"):
        narrow_entry(vault="github", key="PAT", usage=usage, git_hosts=git_hosts)

    assert VaultEntry.objects.get().git_hosts == ["github.com"]
