"""What git is told when it asks who we are."""

import subprocess
from collections.abc import Mapping
from pathlib import Path

from runqy.git.credentials import GitCredentials, git_environment
from runqy.git.sources import parse_source

HTTPS = parse_source(git_url="https://git.example.org/repo.git", branch="main")
SSH = parse_source(git_url="git@git.example.org:repo.git", branch="main")


def ask(env: Mapping[str, str], question: str) -> str:
    done = subprocess.run([env["GIT_ASKPASS"], question], env=dict(env), capture_output=True, text=True)
    return done.stdout.strip()


def test_a_token_is_given_to_its_own_host() -> None:
    with git_environment(HTTPS, GitCredentials(token="planted")) as env:
        assert ask(env, "Username for 'https://git.example.org': ") == "x-access-token"
        assert ask(env, "Password for 'https://x-access-token@git.example.org': ") == "planted"


def test_a_user_may_stand_before_the_token() -> None:
    with git_environment(HTTPS, GitCredentials(token="me:planted")) as env:
        assert ask(env, "Username for 'https://git.example.org': ") == "me"
        assert ask(env, "Password for 'https://me@git.example.org': ") == "planted"


def test_another_host_gets_nothing() -> None:
    with git_environment(HTTPS, GitCredentials(token="planted")) as env:
        assert ask(env, "Username for 'https://evil.example.org': ") == ""
        assert ask(env, "Password for 'https://git.example.org@evil.example.org': ") == ""
        assert ask(env, "Password for 'https://x@git.example.org.evil.org': ") == ""


def test_the_script_is_gone_afterwards() -> None:
    with git_environment(HTTPS, GitCredentials(token="planted")) as env:
        script = Path(env["GIT_ASKPASS"])

    assert not script.exists()


def test_a_token_is_not_shown_to_ssh() -> None:
    with git_environment(SSH, GitCredentials(token="planted")) as env:
        assert "planted" not in str(env)


def test_a_key_given_as_text_reaches_ssh_as_a_private_file() -> None:
    text = "-----BEGIN OPENSSH PRIVATE KEY-----\nplanted\n-----END OPENSSH PRIVATE KEY-----"
    with git_environment(SSH, GitCredentials(ssh_key=text)) as env:
        file = Path(env["GIT_SSH_COMMAND"].split()[-1])

        assert "planted" not in env["GIT_SSH_COMMAND"]
        assert file.read_text() == text + "\n"
        assert file.stat().st_mode & 0o077 == 0


def test_a_path_of_a_key_is_quoted() -> None:
    with git_environment(SSH, GitCredentials(ssh_key="/home/a b/id")) as env:
        assert env["GIT_SSH_COMMAND"].endswith("-o IdentitiesOnly=yes -i '/home/a b/id'")


def test_secrets_do_not_show_in_a_representation() -> None:
    assert "planted" not in repr(GitCredentials(token="planted", ssh_key="planted"))
