"""Deploying from a git server on https, as from a hosting service: shallow, with a token, past redirects."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from runqy.core.git.commands import CommandRunner
from runqy.core.git.credentials import GitCredentials
from runqy.core.git.sources import parse_source
from runqy.errors import DeploymentFailed
from tests.support.git_server import GitServer, git_server
from tests.workers.repositories import Repository
from workers.deploy.deployment import Deployed, DeploymentSpec, deploy

pytestmark = pytest.mark.slow

TOKEN = "gl-pat-0123456789"


@pytest.fixture
def server(repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GitServer]:
    """Serve a repository with two commits to clients with the token."""
    repository.commit({"worker/main.py": "old", "web/index.html": "x"})
    repository.commit({"worker/main.py": "new"})
    served = tmp_path / "served"
    subprocess.run(["git", "clone", "-q", "--bare", repository.folder, served / "code.git"], check=True)
    subprocess.run(["git", "-C", served / "code.git", "config", "uploadpack.allowFilter", "true"], check=True)
    with git_server(served, token=TOKEN, is_smart=True) as running:
        monkeypatch.setenv("GIT_SSL_CAINFO", str(running.certificate))
        yield running


def deployed_from(
    server: GitServer, tmp_path: Path, *, token: str, path: str = "code.git", code_path: str = ""
) -> Deployed:
    """Deploy from the server."""
    credentials = GitCredentials(token=token)
    source = parse_source(git_url=server.url(path), branch="main", code_path=code_path)
    order = DeploymentSpec(queue="mail", source=source, folder=tmp_path / "deployments", credentials=credentials)
    return deploy(order, CommandRunner(secrets=credentials.secrets))


def test_the_tip_is_fetched_with_the_token_and_nothing_else(server: GitServer, tmp_path: Path) -> None:
    deployed = deployed_from(server, tmp_path, token=TOKEN)

    assert (deployed.code_dir / "worker" / "main.py").read_text() == "new"
    count = subprocess.run(
        ["git", "rev-list", "--count", "HEAD"], cwd=deployed.code_dir, capture_output=True, text=True, check=True
    )
    assert count.stdout.strip() == "1"


def test_the_token_is_in_no_command_line_and_in_no_file(server: GitServer, tmp_path: Path) -> None:
    deployed_from(server, tmp_path, token=TOKEN)

    assert server.command_lines
    assert not [line for line in server.command_lines if TOKEN.encode() in line]
    files = [path for path in (tmp_path / "deployments").rglob("*") if path.is_file() and not path.is_symlink()]
    assert not [path for path in files if TOKEN.encode() in path.read_bytes()]


def test_of_a_folder_only_its_files_are_fetched(server: GitServer, tmp_path: Path) -> None:
    deployed = deployed_from(server, tmp_path, token=TOKEN, code_path="worker")

    assert (deployed.code_dir / "main.py").read_text() == "new"
    assert not (deployed.code_dir.parent / "web").exists()


def test_a_wrong_token_is_reported_without_its_value(server: GitServer, tmp_path: Path) -> None:
    with pytest.raises(DeploymentFailed, match="Authentication failed") as caught:
        deployed_from(server, tmp_path, token="wrong-token")

    assert "wrong-token" not in str(caught.value)


def test_without_a_token_git_fails_without_a_prompt(server: GitServer, tmp_path: Path) -> None:
    with pytest.raises(DeploymentFailed, match="could not read Username"):
        deployed_from(server, tmp_path, token="")


def test_a_public_repository_is_found_where_it_moved_to(server: GitServer, tmp_path: Path) -> None:
    server.token = ""

    deployed = deployed_from(server, tmp_path, token="", path="moved/code.git")

    assert (deployed.code_dir / "worker" / "main.py").read_text() == "new"


def test_a_redirect_to_another_host_is_not_followed_with_a_token(server: GitServer, tmp_path: Path) -> None:
    with git_server(tmp_path / "served", token=TOKEN, is_smart=True) as another:
        server.moved_to = f"https://127.0.0.1:{another.port}"

        with pytest.raises(DeploymentFailed, match="Set git_url to the address that it redirects to"):
            deployed_from(server, tmp_path, token=TOKEN, path="moved/code.git")

        assert another.paths == []


def test_a_name_without_its_ending_is_found_with_a_token(server: GitServer, tmp_path: Path) -> None:
    deployed = deployed_from(server, tmp_path, token=TOKEN, path="code")

    assert (deployed.code_dir / "worker" / "main.py").read_text() == "new"


def test_a_server_with_an_unknown_certificate_is_refused(
    server: GitServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GIT_SSL_CAINFO")

    with pytest.raises(DeploymentFailed, match="certificate"):
        deployed_from(server, tmp_path, token=TOKEN)

    assert not server.paths
