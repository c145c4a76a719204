"""Staff look whether a repository is there before they save."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import PATIENT
from tests.support.database import database_variables
from tests.support.git_server import GitServer, git_server
from tests.support.staff import create_roles
from tests.support.web import WebProcess
from tests.workers.repositories import Repository
from vaults.operations import create_vault, set_entry

ADD = "/admin/queues/queue/add/"
TOKEN = "planted-token-7f3a91"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitServer]:
    """Return a git server that wants a token."""
    made = Repository(tmp_path / "repository")
    made.commit({"main.py": "print()"})
    made.git("clone", "--quiet", "--bare", ".", str(tmp_path / "served" / "r.git"))
    made.git("--git-dir", str(tmp_path / "served" / "r.git"), "update-server-info")
    with git_server(tmp_path / "served", token=TOKEN) as running:
        yield running


@pytest.fixture
def site(
    configuration: None, tmp_path: Path, server: GitServer, shared_site: WebProcess, request: pytest.FixtureRequest
) -> Iterator[WebProcess]:
    """Return a server that trusts the git server and looks at private addresses, if the test needs that."""
    create_roles()
    if request.node.get_closest_marker("parametrize") is not None:
        yield shared_site
        return
    variables = {"GIT_SSL_CAINFO": str(server.certificate), "RUNQY_GIT_CHECK_PRIVATE": "true"}
    started = WebProcess(tmp_path, PATIENT, **database_variables(), **variables)
    yield started
    started.kill()


def check(page: Page, url: str, branch: str = "main", token: str = "") -> None:
    """Enter a repository and press the button."""
    page.locator("[name=git_url]").fill(url)
    page.locator("[name=branch]").fill(branch)
    page.locator("[name=git_token]").select_option(token)
    page.get_by_role("button", name="Check repository and branch").click()


@pytest.mark.usefixtures("context")
def test_a_repository_is_looked_at_with_a_token_that_shows_nowhere(page: Page, server: GitServer) -> None:
    create_vault(name="github")
    set_entry(vault="github", key="PAT", value=TOKEN, git_hosts=[f"127.0.0.1:{server.port}"])
    messages: list[str] = []
    page.on("response", lambda response: messages.append(response.url) if response.url.endswith("/check/") else None)
    page.goto(ADD)
    outcome = page.locator("[data-check-result]")

    check(page, server.url("r.git"))
    expect(outcome).to_contain_text("Select a git token")
    check(page, server.url("r.git"), "other", "vault://github/PAT")
    expect(outcome).to_have_text("The repository has no branch or tag other.")
    check(page, server.url("r.git"), "main", "vault://github/PAT")
    expect(outcome).to_contain_text("Reachable. The branch main is at")

    assert len(messages) == 3
    assert TOKEN not in page.content()
    assert server.command_lines
    assert not any(TOKEN.encode() in line for line in server.command_lines)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_this_machine_is_refused(page: Page, server: GitServer, host: str) -> None:
    page.goto(ADD)

    check(page, f"https://{host}:{server.port}/r.git")

    expect(page.locator("[data-check-result]")).to_contain_text("RUNQY_GIT_CHECK_PRIVATE")
    assert server.paths == []
