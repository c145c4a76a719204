"""Which hosts of git servers are the same."""

import pytest

from runqy.core.git.sources import find_https_host, normalize_host


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("github.com", "github.com"),
        ("GitHub.COM", "github.com"),
        ("github.com.", "github.com"),
        ("github.com:443", "github.com"),
        ("github.com.:0443", "github.com"),
        ("git.example.com:8443", "git.example.com:8443"),
        ("git_server", "git_server"),
        ("127.0.0.1:3000", "127.0.0.1:3000"),
        ("[::1]:8443", "[::1]:8443"),
        ("[0:0:0:0:0:0:0:1]", "[::1]"),
    ],
)
def test_hosts_are_normalized(text: str, host: str) -> None:
    assert normalize_host(text) == host


@pytest.mark.parametrize(
    "text",
    [
        *("", ".", "https://github.com", "github.com/org", "user@github.com", "*.github.com", "github.com:"),
        *("github.com:0", "github.com:65536", "github.com\\", "github.com evil.com", "gìthub.com", "\uff47ithub.com"),
        *("github\u3002com", "github%2ecom", "[::1", "[127.0.0.1]", "github.com\n", "-github.com", "github.com#"),
    ],
)
def test_invalid_hosts_are_none(text: str) -> None:
    assert normalize_host(text) is None


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://github.com/org/repo.git", "github.com"),
        ("HTTPS://GitHub.com:443/org/repo.git", "github.com"),
        ("https://github.com./org/repo.git", "github.com"),
        ("https://evil.com/https://github.com/", "evil.com"),
        ("https://evil.com#@github.com/", "evil.com"),
        ("https://evil.com?@github.com/", "evil.com"),
        ("https://github.com.evil.com/", "github.com.evil.com"),
    ],
)
def test_host_of_a_url_is_the_one_git_contacts(url: str, host: str) -> None:
    assert find_https_host(url) == host


@pytest.mark.parametrize(
    "url",
    [
        "https://github.com@evil.com/r.git",
        "https://github.com:443@evil.com/r.git",
        "https://evil.com\\@github.com/r.git",
        "https://evil.com\\.github.com/r.git",
        "https:///github.com/r.git",
        "https:github.com/r.git",
        "https://github.com\t.evil.com/r.git",
        "https://[github.com/r.git",
        "https://github.com%40evil.com/r.git",
        "https://github.com:99999/r.git",
        "ssh://git@github.com/r.git",
        "http://github.com/r.git",
        "file:///srv/r.git",
        "git@github.com:r.git",
    ],
)
def test_ambiguous_urls_have_no_host(url: str) -> None:
    assert find_https_host(url) is None
