"""Which git sources a worker accepts."""

import pytest

from runqy.core.git.sources import parse_path, parse_source
from runqy.errors import DeploymentRefused


@pytest.mark.parametrize(
    ("url", "seen_by_git"),
    [
        ("https://github.com/example/repo.git", "https://github.com/example/repo.git"),
        ("ssh://git@example.org:2222/repo.git", "ssh://git@example.org:2222/repo.git"),
        ("git@github.com:example/repo.git", "ssh://git@github.com/example/repo.git"),
        ("file:///srv/git/repo", "file:///srv/git/repo"),
    ],
)
def test_https_ssh_and_file_urls_are_accepted(url: str, seen_by_git: str) -> None:
    assert parse_source(git_url=url, branch="main").url == seen_by_git


@pytest.mark.parametrize(
    "url",
    [
        "",
        "--upload-pack=touch /tmp/x",
        "-oProxyCommand=x",
        "ext::sh -c touch% /tmp/x",
        "fd::17",
        "http://example.org/repo.git",
        "git://example.org/repo.git",
        "/srv/git/repo",
        "../repo",
        "file://host/share/repo",
        "file://relative",
        "ssh://-oProxyCommand=x/repo",
        "ssh://-oProxyCommand=x@example.org/repo",
        "ssh://%2DoProxyCommand=x@example.org/repo",
        "ssh://git@%2DoProxyCommand=x/repo",
        "ssh://git@example.org:-oProxyCommand=x/repo",
        "git@-oProxyCommand=x:repo",
        "https://user:secret@example.org/repo.git",
        "https://secret@example.org/repo.git",
        "https:///repo",
        "https://example.org/repo.git\n--upload-pack=x",
        "https://example.org/a b",
    ],
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(DeploymentRefused, match=r"^git_url: (Must|A file URL must) "):
        parse_source(git_url=url, branch="main")


def test_a_refused_url_with_credentials_is_not_repeated() -> None:
    with pytest.raises(DeploymentRefused) as refused:
        parse_source(git_url="https://user:planted@example.org/repo.git", branch="main")

    assert "planted" not in refused.value.detail


@pytest.mark.parametrize("branch", ["main", "release/1.2", "feature/a_b-c", "v1.0.0", "@"])
def test_valid_branches_are_accepted(branch: str) -> None:
    assert parse_source(git_url="file:///r", branch=branch).branch == branch


@pytest.mark.parametrize(
    "branch", ["-x", "--all", "a..b", "a b", "a~1", "a^", "a:b", "a*", "a@{1}", "/a", "a/", "a.lock"]
)
def test_invalid_branches_are_refused(branch: str) -> None:
    with pytest.raises(DeploymentRefused):
        parse_source(git_url="file:///r", branch=branch)


@pytest.mark.parametrize(
    ("path", "plain"), [("", ""), (".", ""), ("worker", "worker"), ("./a/b/", "a/b"), ("a b/c", "a b/c")]
)
def test_plain_paths_are_accepted(path: str, plain: str) -> None:
    assert parse_path(path, "code_path") == plain


@pytest.mark.parametrize("path", ["..", "a/../..", "/etc", "-x", "a/.git/hooks", "a*", "!a", "a\nb", "a\\b"])
def test_paths_outside_the_repository_are_refused(path: str) -> None:
    with pytest.raises(DeploymentRefused):
        parse_path(path, "code_path")
