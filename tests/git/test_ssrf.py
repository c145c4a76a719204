"""Git stays with the addresses that were looked at."""

from pathlib import Path

import pytest

from runqy.core.git.commands import CommandRunner
from runqy.core.git.credentials import GitCredentials, git_environment
from runqy.core.git.limits import Limits
from runqy.core.git.remotes import find_public_addresses, pinned_http, pinned_ssh, resolve_ref
from runqy.core.git.sources import Source, parse_source
from runqy.errors import DeploymentFailed, DeploymentRefused
from tests.support.git_server import HOST, git_server
from tests.workers.repositories import Repository


def source(url: str) -> Source:
    return parse_source(git_url=url, branch="main")


def test_git_connects_to_the_pinned_address_whatever_dns_returns(tmp_path: Path, monkeypatch) -> None:
    made = Repository(tmp_path / "r")
    commit = made.commit({"a": "b"})
    made.git("clone", "--quiet", "--bare", ".", str(tmp_path / "served" / "r.git"))
    made.git("--git-dir", str(tmp_path / "served" / "r.git"), "update-server-info")
    with git_server(tmp_path / "served") as server:
        monkeypatch.setenv("GIT_SSL_CAINFO", str(server.certificate))
        monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
        one = source(f"https://{HOST}:{server.port}/r.git")

        with git_environment(one, GitCredentials()) as env:
            ref = resolve_ref(
                one, CommandRunner(), env=env, timeout_s=60, limits=Limits(), config=pinned_http(one, ["127.0.0.1"])
            )

    assert ref.commit == commit


@pytest.mark.parametrize(
    ("url", "pinned"),
    [
        ("https://h/r", ["http.curloptResolve=h:443:8.8.8.8,[2606:4700::1111]"]),
        ("https://h:8443/r", ["http.curloptResolve=h:8443:8.8.8.8,[2606:4700::1111]"]),
        ("https://[2606:4700::1111]/r", []),
        ("https://[2606:4700::1111]:8443/r", []),
    ],
)
def test_https_is_pinned_to_all_addresses_and_goes_through_no_proxy(url: str, pinned: list[str]) -> None:
    assert pinned_http(source(url), ["8.8.8.8", "2606:4700::1111"]) == ["http.proxy=", *pinned]


def test_ssh_ignores_its_configuration_files() -> None:
    options = pinned_ssh(source("git@h:r.git"), ["8.8.8.8"])

    assert options == "-F none -o ProxyCommand=none -o HostName=8.8.8.8 -o HostKeyAlias=h"


@pytest.mark.parametrize("host", ["8.8.8.8", "[2606:4700::1111]", "8.8.8.8:8443"])
def test_public_addresses_pass(host: str) -> None:
    assert find_public_addresses(source(f"https://{host}/r")) == [host.removesuffix(":8443").strip("[]")]


@pytest.mark.parametrize("host", ["münchen.example", "a_b.example", "h:99999999", "h%2e", "example.org."])
def test_ambiguous_hosts_are_refused(host: str) -> None:
    with pytest.raises(DeploymentRefused):
        find_public_addresses(source(f"https://{host}/r"))


def test_an_unknown_host_is_named(monkeypatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise OSError

    monkeypatch.setattr("socket.getaddrinfo", fail)

    with pytest.raises(DeploymentFailed, match=r"git\.example\.org cannot be resolved"):
        find_public_addresses(source("https://git.example.org/r"))
