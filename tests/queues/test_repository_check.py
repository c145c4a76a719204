"""What people are told about a repository before workers deploy it."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.db import connection

from queues import repository_check
from queues.repository_check import MOST_AT_ONCE, RepositoryCheck, check_repository
from runqy.audit.models import AuditRecord
from tests.support.git_server import GitServer, git_server
from tests.support.waiting import wait_until
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
    assert found == RepositoryCheck(is_ready=True, sentence=f"Reachable. The {kind} {name} is at {commit}.")


@pytest.mark.usefixtures("may_look_anywhere")
def test_a_repository_on_the_disk_is_found_where_that_is_allowed(repository: Repository) -> None:
    assert check(repository.url).is_ready


@pytest.mark.usefixtures("may_look_anywhere")
def test_a_branch_that_is_missing_is_told_apart_from_a_repository_that_is(server: GitServer) -> None:
    assert check(server.url("r.git"), "other").sentence == "Reachable, but there is no branch or tag other."
    assert check(server.url("other.git")).sentence == "The server shows no repository."


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
def test_private_addresses_are_refused(url: str) -> None:
    found = check(url)

    assert not found.is_ready
    assert "RUNQY_GIT_CHECK_PRIVATE" in found.sentence


def test_nothing_is_asked_of_a_server_that_is_refused(server: GitServer) -> None:
    check(server.url("r.git"))

    assert server.paths == []


def test_the_disk_is_refused(repository: Repository) -> None:
    assert "RUNQY_GIT_CHECK_PRIVATE" in check(repository.url).sentence


def test_one_private_address_among_public_ones_is_enough_to_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    places = [(2, 1, 6, "", (address, 443)) for address in ("93.184.216.34", "10.0.0.1")]
    monkeypatch.setattr("socket.getaddrinfo", lambda *args, **options: places)

    assert "private network" in check("https://git.example.org/r.git").sentence


@pytest.mark.parametrize(
    "url", ["ext::sh -c id", "git://h/r.git", "http://h/r.git", "--upload-pack=id", "https://u:p@h/r"]
)
def test_what_is_no_allowed_url_is_not_handed_to_git(url: str) -> None:
    found = check(url)

    assert found.sentence.startswith("Repository: ")
    assert not AuditRecord.objects.exists()


def test_what_is_no_branch_is_not_handed_to_git() -> None:
    assert check("https://h/r.git", "--upload-pack=id").sentence == "Branch: it is not the name of a branch."


@pytest.mark.usefixtures("may_look_anywhere")
def test_a_token_reaches_the_server_and_shows_nowhere(server: GitServer) -> None:
    server.token = TOKEN
    create_vault(name="github")
    set_entry(vault="github", key="PAT", value=TOKEN, git_hosts=[f"127.0.0.1:{server.port}"])

    found = check(server.url("r.git"), git_token="vault://github/PAT", queue="mail")

    assert found.is_ready, found.sentence
    assert server.command_lines
    assert not any(TOKEN.encode() in line for line in server.command_lines)
    record = AuditRecord.objects.get(action="queue.repository_checked")
    assert record.object_name == "mail"
    assert "vault://github/PAT" in record.changes
    assert TOKEN not in record.changes


@pytest.mark.usefixtures("may_look_anywhere")
@pytest.mark.parametrize("git_hosts", [None, ["github.com"], ["127.0.0.1"]])
def test_a_token_is_not_sent_to_a_host_it_is_not_declared_for(server: GitServer, git_hosts: list[str] | None) -> None:
    server.token = TOKEN
    create_vault(name="github")
    set_entry(vault="github", key="PAT", value=TOKEN, git_hosts=git_hosts)

    found = check(server.url("r.git"), git_token="vault://github/PAT")

    assert f"may not be sent to 127.0.0.1:{server.port}: add 127.0.0.1:{server.port}" in found.sentence
    assert server.paths == []


@pytest.mark.usefixtures("may_look_anywhere")
def test_a_token_that_is_refused_is_not_told(server: GitServer) -> None:
    server.token = "another"
    create_vault(name="github")
    set_entry(vault="github", key="PAT", value=TOKEN, git_hosts=[f"127.0.0.1:{server.port}"])

    found = check(server.url("r.git"), git_token="vault://github/PAT")

    assert found.sentence == "The server refuses the git token, or the token may not read this."


@pytest.mark.usefixtures("may_look_anywhere")
def test_a_server_that_wants_a_token_asks_for_one(server: GitServer) -> None:
    server.token = TOKEN

    assert "choose a git token" in check(server.url("r.git")).sentence


def test_a_token_that_does_not_exist_is_named() -> None:
    found = check("https://127.0.0.1/r.git", git_token="vault://github/PAT")

    assert found.sentence.startswith("The vault github with the git token does not exist")


@pytest.mark.usefixtures("may_look_anywhere")
def test_a_redirect_is_not_followed(server: GitServer) -> None:
    found = check(server.url("moved/r.git"))

    assert found.sentence == "The server redirects elsewhere. Enter the address that it leads to."
    assert all(path.startswith("/moved/") for path in server.paths)


@pytest.mark.usefixtures("may_look_anywhere")
def test_a_certificate_that_nobody_vouches_for_is_refused(server: GitServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GIT_SSL_CAINFO")

    assert check(server.url("r.git")).sentence == "The server's certificate is not trusted here."


@pytest.mark.usefixtures("may_look_anywhere")
def test_a_server_that_does_not_answer_is_left_after_a_while(
    server: GitServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.is_silent.set()
    monkeypatch.setattr(repository_check, "CHECK_TIMEOUT_S", 1.0)

    found = check(server.url("r.git"))

    assert found.sentence == "The server did not answer within 1 seconds."
    wait_until(
        lambda: not [path for path in Path("/proc").glob("[0-9]*/cmdline") if _mentions(path, server.url("r.git"))]
    )


@pytest.mark.usefixtures("may_look_anywhere")
def test_only_a_few_checks_run_at_once(server: GitServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.is_silent.set()
    found: list[RepositoryCheck] = []

    def look() -> None:
        found.append(check(server.url("r.git")))
        connection.close()

    threads = [threading.Thread(target=look) for _ in range(MOST_AT_ONCE)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(server.paths) == MOST_AT_ONCE)

    refused = check(server.url("r.git"))

    server.released.set()
    for thread in threads:
        thread.join()
    assert refused.sentence == "Other checks are running. Try again in a few seconds."
    assert len(server.paths) == MOST_AT_ONCE


def _mentions(path: Path, text: str) -> bool:
    """Tell whether a process that still runs has a text in its command line."""
    try:
        return text.encode() in path.read_bytes()
    except OSError:
        return False
