"""The check of a repository."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.db import connection

from queues import repository_check
from queues.repository_check import CONCURRENT_CHECKS_MAX, RepositoryCheck, check_repository
from runqy.audit.models import AuditRecord
from runqy.core.git.limits import Limits
from tests.support.git_server import GitServer, git_server
from tests.support.processes import command_lines
from tests.support.waiting import PATIENCE_S, wait_until
from tests.workers.repositories import Repository
from vaults.operations import create_vault, set_entry

pytestmark = pytest.mark.usefixtures("configuration")

TOKEN = "planted-token-7f3a91"


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """Return a repository with a commit, a tag, and a bare copy that a server of plain files can serve."""
    made = Repository(tmp_path / "repository")
    made.commit({"main.py": "print()"})
    made.git("tag", "-m", "first", "v1")
    made.git("clone", "--quiet", "--bare", ".", str(tmp_path / "served" / "r.git"))
    made.git("--git-dir", str(tmp_path / "served" / "r.git"), "update-server-info")
    return made


@pytest.fixture
def server(repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GitServer]:
    """Return a git server whose certificate git trusts."""
    monkeypatch.setattr(repository_check, "CHECK_TIMEOUT_S", PATIENCE_S)
    with git_server(tmp_path / "served") as running:
        monkeypatch.setenv("GIT_SSL_CAINFO", str(running.certificate))
        yield running


@pytest.fixture
def may_look_anywhere(settings) -> None:
    """Allow private addresses."""
    settings.RUNQY_GIT_CHECK_PRIVATE = True


def check(url: str, branch: str = "main", **more: str) -> RepositoryCheck:
    return check_repository(git_url=url, branch=branch, **more)


@pytest.mark.usefixtures("may_look_anywhere")
@pytest.mark.parametrize(("name", "kind"), [("main", "branch"), ("v1", "tag")])
def test_a_branch_or_tag_is_found(server: GitServer, repository: Repository, name: str, kind: str) -> None:
    found = check(server.url("r.git"), name)

    commit = repository.git("rev-parse", "HEAD")[:12]
    assert found == RepositoryCheck(is_ready=True, message=f"Reachable. The {kind} {name} is at {commit}.")


@pytest.mark.usefixtures("may_look_anywhere")
def test_a_local_repository_is_found_if_the_setting_allows_it(repository: Repository) -> None:
    assert check(repository.url).is_ready


@pytest.mark.usefixtures("may_look_anywhere")
def test_a_missing_branch_is_distinguished_from_a_missing_repository(server: GitServer) -> None:
    assert check(server.url("r.git"), "other").message == "The repository has no branch or tag other."
    assert check(server.url("other.git")).message == "Repository not found."


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/r.git",
        "https://localhost/r.git",
        "https://[::1]/r.git",
        "https://0x7f.1/r.git",
        "https://2130706433/r.git",
        "https://169.254.169.254/latest",
        "https://10.0.0.1/r.git",
        "https://100.100.100.200/r.git",
        "https://168.63.129.16/r.git",
        "https://[fd00:ec2::254]/r.git",
        "https://[::ffff:127.0.0.1]/r.git",
        "https://[64:ff9b::7f00:1]/r.git",
        "https://[::127.0.0.1]/r.git",
        "https://[2002:7f00:1::]/r.git",
        "ssh://git@192.168.0.1/r.git",
        "git@127.0.0.1:r.git",
    ],
)
def test_private_addresses_are_rejected(url: str) -> None:
    found = check(url)

    assert not found.is_ready
    assert "RUNQY_GIT_CHECK_PRIVATE" in found.message


def test_a_rejected_server_receives_no_request(server: GitServer) -> None:
    check(server.url("r.git"))

    assert server.paths == []


def test_file_urls_are_rejected(repository: Repository) -> None:
    assert "RUNQY_GIT_CHECK_PRIVATE" in check(repository.url).message


def test_a_host_with_one_private_address_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = [(2, 1, 6, "", (address, 443)) for address in ("93.184.216.34", "10.0.0.1")]
    monkeypatch.setattr("socket.getaddrinfo", lambda *args, **options: addresses)

    assert "private network" in check("https://git.example.org/r.git").message


@pytest.mark.parametrize(
    "url", ["ext::sh -c id", "git://h/r.git", "http://h/r.git", "--upload-pack=id", "https://u:p@h/r"]
)
def test_an_invalid_url_is_not_passed_to_git(url: str) -> None:
    found = check(url)

    assert found.message.startswith("Repository: ")
    assert not AuditRecord.objects.exists()


def test_an_invalid_branch_is_not_passed_to_git() -> None:
    assert (
        check("https://h/r.git", "--upload-pack=id").message == "Branch: '--upload-pack=id' is not a valid branch name."
    )


@pytest.mark.usefixtures("may_look_anywhere")
def test_a_token_reaches_only_the_server(server: GitServer) -> None:
    server.token = TOKEN
    create_vault(name="github")
    set_entry(vault="github", key="PAT", value=TOKEN, git_hosts=[f"127.0.0.1:{server.port}"])

    found = check(server.url("r.git"), git_token="vault://github/PAT", queue="mail")

    assert found.is_ready, found.message
    assert server.command_lines
    assert not any(TOKEN.encode() in line for line in server.command_lines)
    record = AuditRecord.objects.get(action="queue.repository_checked")
    assert record.object_name == "mail"
    assert "vault://github/PAT" in record.changes
    assert TOKEN not in record.changes


@pytest.mark.usefixtures("may_look_anywhere")
@pytest.mark.parametrize("git_hosts", [None, ["github.com"], ["127.0.0.1"]])
def test_a_token_is_not_sent_to_an_undeclared_host(server: GitServer, git_hosts: list[str] | None) -> None:
    server.token = TOKEN
    create_vault(name="github")
    set_entry(vault="github", key="PAT", value=TOKEN, git_hosts=git_hosts)

    found = check(server.url("r.git"), git_token="vault://github/PAT")

    assert f"may not be sent to 127.0.0.1:{server.port}: add 127.0.0.1:{server.port}" in found.message
    assert server.paths == []


@pytest.mark.usefixtures("may_look_anywhere")
def test_a_rejected_token_is_not_in_the_message(server: GitServer) -> None:
    server.token = "another"
    create_vault(name="github")
    set_entry(vault="github", key="PAT", value=TOKEN, git_hosts=[f"127.0.0.1:{server.port}"])

    found = check(server.url("r.git"), git_token="vault://github/PAT")

    assert found.message == "The server rejected the git token, or the token may not read this repository."


@pytest.mark.usefixtures("may_look_anywhere")
def test_a_private_repository_requires_a_git_token(server: GitServer) -> None:
    server.token = TOKEN

    assert "Select a git token" in check(server.url("r.git")).message


def test_a_missing_token_is_named() -> None:
    found = check("https://127.0.0.1/r.git", git_token="vault://github/PAT")

    assert found.message.startswith("The vault github with the git token does not exist")


@pytest.mark.usefixtures("may_look_anywhere")
def test_a_redirect_is_not_followed(server: GitServer) -> None:
    found = check(server.url("moved/r.git"))

    assert found.message == "The server redirects to another URL. Enter that URL."
    assert all(path.startswith("/moved/") for path in server.paths)


@pytest.mark.usefixtures("may_look_anywhere")
def test_an_untrusted_certificate_is_rejected(server: GitServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GIT_SSL_CAINFO")

    assert check(server.url("r.git")).message == "The certificate of the git server is not trusted."


@pytest.mark.usefixtures("may_look_anywhere")
def test_a_lost_connection_is_not_reported_as_an_untrusted_certificate(server: GitServer) -> None:
    server.is_broken.set()

    for name in ("r.git", "certificate.git"):
        assert check(server.url(name)).message.startswith("The connection to the git server was lost. Try again;")


@pytest.mark.usefixtures("may_look_anywhere")
@pytest.mark.parametrize("url", ["https://certificate.localhost:1/r.git", "https://certificate.invalid/r.git"])
def test_a_host_whose_name_is_the_word_of_another_reason_is_unreachable(url: str) -> None:
    assert check(url).message == "No git server can be reached at this address."


@pytest.mark.usefixtures("may_look_anywhere")
def test_a_server_that_does_not_respond_times_out(server: GitServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.is_silent.set()
    monkeypatch.setattr(repository_check, "CHECK_TIMEOUT_S", 1.0)

    found = check(server.url("r.git"))

    assert found.message == "The server did not respond within 1 seconds."
    wait_until(lambda: not any(server.url("r.git").encode() in line for line in command_lines()))


@pytest.mark.usefixtures("may_look_anywhere")
def test_a_server_that_lists_branches_forever_is_given_up(server: GitServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.is_endless.set()
    monkeypatch.setattr(repository_check, "CHECK_LIMITS", Limits(memory_bytes=64 << 20))

    found = check(server.url("r.git"))

    assert found.message == "The server sends too much: git ls-remote needs more than 64 MiB of memory."


@pytest.mark.usefixtures("may_look_anywhere")
def test_concurrent_checks_are_limited(server: GitServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.is_silent.set()
    found: list[RepositoryCheck] = []

    def look() -> None:
        found.append(check(server.url("r.git")))
        connection.close()

    threads = [threading.Thread(target=look) for _ in range(CONCURRENT_CHECKS_MAX)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(server.paths) == CONCURRENT_CHECKS_MAX)

    refused = check(server.url("r.git"))

    server.released.set()
    for thread in threads:
        thread.join()
    assert refused.message == "Other checks are running. Try again in a few seconds."
    assert len(server.paths) == CONCURRENT_CHECKS_MAX
