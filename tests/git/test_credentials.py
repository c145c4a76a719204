"""The credentials that git receives."""

import os
import subprocess
from pathlib import Path

from runqy.core.git.commands import CommandRunner
from runqy.core.git.credentials import GitCredentials, GitEnvironment, git_environment
from runqy.core.git.sources import parse_source
from runqy.errors import DeploymentFailed

HTTPS = parse_source(git_url="https://git.example.org/repo.git", branch="main")
SSH = parse_source(git_url="git@git.example.org:repo.git", branch="main")


def ask(env: GitEnvironment, question: str) -> str:
    ask_twice = 'f=$(mktemp); "$GIT_ASKPASS" "$1" >$f; "$GIT_ASKPASS" "$1" | cmp - $f && cat $f'
    try:
        return (
            CommandRunner()
            .run(["sh", "-c", ask_twice, "sh", question], env=env.variables, secret=env.secret, timeout_s=60)
            .strip()
        )
    except DeploymentFailed:
        return ""


def test_a_token_is_given_to_its_own_host() -> None:
    with git_environment(HTTPS, GitCredentials(token="planted")) as env:
        assert ask(env, "Username for 'https://git.example.org': ") == "x-access-token"
        assert ask(env, "Password for 'https://x-access-token@git.example.org': ") == "planted"


def test_token_may_contain_a_user() -> None:
    with git_environment(HTTPS, GitCredentials(token="me:planted")) as env:
        assert ask(env, "Username for 'https://git.example.org': ") == "me"
        assert ask(env, "Password for 'https://me@git.example.org': ") == "planted"


def test_another_host_gets_nothing() -> None:
    with git_environment(HTTPS, GitCredentials(token="planted")) as env:
        assert ask(env, "Username for 'https://evil.example.org': ") == ""
        assert ask(env, "Password for 'https://git.example.org@evil.example.org': ") == ""
        assert ask(env, "Password for 'https://x@git.example.org.evil.org': ") == ""


def test_askpass_script_is_removed_afterwards() -> None:
    with git_environment(HTTPS, GitCredentials(token="planted")) as env:
        script = Path(env.variables["GIT_ASKPASS"])

    assert not script.exists()


def test_a_token_is_not_shown_to_ssh() -> None:
    with git_environment(SSH, GitCredentials(token="planted")) as env:
        assert "planted" not in str(env.variables)
        assert env.secret == ""


def test_a_token_is_not_in_the_environment_of_git() -> None:
    with git_environment(HTTPS, GitCredentials(token="planted")) as env:
        output = CommandRunner().run(["env"], env=env.variables, secret=env.secret, timeout_s=60)

    assert "RUNQY_SECRET_FD" in output
    assert "planted" not in output


def test_secret_longer_than_a_pipe_buffer_is_read_whole() -> None:
    secret = "x" * 10_000

    read = CommandRunner().run(
        ["sh", "-c", 'IFS= read -r secret <"/dev/fd/$RUNQY_SECRET_FD"; printf %s "$secret"'],
        env={"PATH": os.defpath},
        secret=secret,
        timeout_s=60,
    )

    assert read == secret


def test_a_key_given_as_text_reaches_ssh_as_a_private_file() -> None:
    text = "-----BEGIN OPENSSH PRIVATE KEY-----\nplanted\n-----END OPENSSH PRIVATE KEY-----"
    with git_environment(SSH, GitCredentials(ssh_key=text)) as env:
        file = Path(env.variables["GIT_SSH_COMMAND"].split()[-1])

        assert "planted" not in env.variables["GIT_SSH_COMMAND"]
        assert file.read_text() == text + "\n"
        assert file.stat().st_mode & 0o077 == 0


def test_a_path_of_a_key_is_quoted() -> None:
    with git_environment(SSH, GitCredentials(ssh_key="/home/a b/id")) as env:
        assert env.variables["GIT_SSH_COMMAND"].endswith("-o IdentitiesOnly=yes -i '/home/a b/id'")


def test_secrets_do_not_show_in_a_representation() -> None:
    assert "planted" not in repr(GitCredentials(token="planted", ssh_key="planted"))


def test_a_repository_on_this_machine_may_belong_to_another_user(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    source = parse_source(git_url=tmp_path.as_uri(), branch="main")

    with git_environment(source, GitCredentials()) as env:
        other_owner = env.variables | {"GIT_TEST_ASSUME_DIFFERENT_OWNER": "1"}
        assert CommandRunner().run(["git", "ls-remote", source.url], env=other_owner, timeout_s=60) == ""
