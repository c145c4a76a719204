"""Vaults on the command line: what is sent, what is shown, and where secrets come from."""

import json

import pytest

from runqy.cli import prompts
from runqy.cli.errors import ExitCode


def sent(server, number=0):
    request = server.requests[number]
    return request.method, request.url.path, json.loads(request.content) if request.content else None


def test_vaults_are_listed(run, server):
    server.responses = [(200, {"vaults": [{"name": "api-keys", "description": "keys", "entry_count": 2}], "count": 1})]

    assert run("vault", "list").stdout == "api-keys\t2\tkeys\n"


def test_vault_is_created(run, server):
    server.responses = [(201, {"message": "vault created successfully", "vault": {"name": "api-keys"}})]

    result = run("vault", "create", "api-keys", "-d", "keys")

    assert sent(server) == ("POST", "/api/vaults", {"name": "api-keys", "description": "keys"})
    assert result.stdout.startswith("api-keys created")


def test_a_change_that_is_not_published_is_a_warning(run, server):
    server.responses = [(201, {"message": "vault created successfully", "published": False})]

    result = run("vault", "create", "v")

    assert result.exit_code == 0
    assert "not published" in result.stderr


def test_entries_are_shown_masked_as_the_server_sends_them(run, server):
    entry = {"key": "A", "value": "sk****yz", "is_secret": True, "version": 3, "updated_by": "ada", "updated_at": "now"}
    entry |= {"usage": "git_token", "git_hosts": ["github.com"]}
    variable = entry | {"key": "B", "usage": "environment", "git_hosts": []}
    server.responses = [(200, {"entries": [entry, variable], "count": 2})] * 2

    assert run("vault", "show", "api/keys").stdout == (
        'A\tsk****yz\t3\tnow\tada\tgit_token\t["github.com"]\nB\tsk****yz\t3\tnow\tada\tenvironment\t\n'
    )
    assert str(server.requests[0].url).endswith("/api/vaults/api%2Fkeys/entries")
    assert json.loads(run("vault", "show", "api-keys", "--json").stdout) == [entry, variable]


def test_versions_are_listed(run, server):
    version = {"version": 2, "event": "set", "at": "now", "actor_kind": "user", "actor": "ada"}
    server.responses = [(200, {"versions": [version], "count": 1, "next": None})]

    assert run("vault", "versions", "api-keys", "A").stdout == "2\tset\tnow\tuser\tada\n"
    assert sent(server)[1] == "/api/vaults/api-keys/entries/A/versions"


@pytest.mark.parametrize("given", ["a value\n", "a value", "a value\r\n"])
def test_a_value_comes_from_standard_input(run, server, given):
    server.responses = [(200, {"message": "entry set successfully", "version": 4})]

    result = run("vault", "set", "api-keys", "A", "--expect", "3", input=given)

    body = {"key": "A", "value": "a value", "is_secret": True, "expected_version": 3}
    assert sent(server) == ("POST", "/api/vaults/api-keys/entries", body)
    assert result.stdout == "api-keys/A is at version 4\n"


def test_a_change_for_another_version_is_a_conflict(run, server):
    server.responses = [(412, {"code": "vault_entry_changed", "detail": "it is at version 4", "errors": []})]

    result = run("vault", "set", "api-keys", "A", "--expect", "3", "--plain", input="x")

    assert (result.exit_code, result.stderr) == (ExitCode.CONFLICT, "runqy: it is at version 4\n")
    assert sent(server)[2]["is_secret"] is False


def test_a_git_token_is_set_with_its_hosts(run, server):
    server.responses = [(200, {"message": "entry set successfully", "version": 1})] * 2

    run("vault", "set", "github", "PAT", "--git-host", "github.com", "--git-host", "git.example.com:8443", input="x")
    run("vault", "set", "github", "PAT", "--usage", "both", input="x")

    assert sent(server)[2]["git_hosts"] == ["github.com", "git.example.com:8443"]
    assert "usage" not in sent(server)[2]
    assert sent(server, 1)[2]["usage"] == "both"
    assert "git_hosts" not in sent(server, 1)[2]


def test_a_value_on_the_command_line_is_accepted_with_a_warning(run, server):
    server.responses = [(200, {"message": "entry set successfully", "version": 1})]

    result = run("vault", "set", "api-keys", "A", "a value", "--plain")

    assert (sent(server)[2]["value"], sent(server)[2]["is_secret"]) == ("a value", False)
    assert "visible in the list of processes" in result.stderr


def test_lines_with_an_error_set_nothing_and_are_not_printed(run, server):
    result = run("vault", "import", "api-keys", input="GOOD=1\ns3cret line\nPATH=x\n")

    assert (result.exit_code, server.requests) == (ExitCode.FAILED, [])
    assert result.stderr.startswith("runqy: Nothing was set:\n  line 2: Must be KEY=value.")
    assert "  line 3: PATH" in result.stderr
    assert "s3cret" not in result.stderr


def test_entries_are_imported_by_one_request(run, server):
    existing = {"entries": [{"key": "A"}, {"key": "B"}]}
    server.responses = [(200, existing), (200, {"changed": ["B", "C"]}), (200, existing), (400, {"detail": "No."})]

    done = run("vault", "import", "api-keys", "--plain", input="A=1\nB=2\nC=3\n")
    refused = run("vault", "import", "api-keys", input="A=1\n")

    assert sent(server, 1)[2] == {"values": {"A": "1", "B": "2", "C": "3"}, "is_secret": False}
    assert done.stdout == "A\tunchanged\nB\tchanged\nC\tnew\n"
    assert (refused.exit_code, refused.stdout, len(server.requests)) == (ExitCode.FAILED, "", 4)


def test_file_that_does_not_exist_is_a_clear_error(run, server):
    result = run("vault", "import", "api-keys", "no.env")

    assert result.stderr == "runqy: no.env cannot be read: No such file or directory.\n"


def test_warnings_about_queues_are_printed_when_a_vault_is_deleted(run, server):
    server.responses = [(200, {"message": "vault deleted successfully", "warnings": ["The queue mail uses it."]})]

    result = run("vault", "delete", "api-keys", "--force")

    assert (result.stdout, result.stderr) == ("api-keys deleted\n", "runqy: The queue mail uses it.\n")


def test_question_names_the_number_of_entries(run, server, monkeypatch):
    monkeypatch.setattr(prompts, "is_interactive", lambda: True)
    server.responses = [(200, {"entries": [{"key": "A"}, {"key": "B"}]})]

    result = run("vault", "delete", "api-keys", input="n\n")

    assert (result.exit_code, len(server.requests)) == (ExitCode.FAILED, 1)
    assert "Delete the vault api-keys and its 2 entries? [y/N]" in result.stderr
