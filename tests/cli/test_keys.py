"""Key and address come from the environment, and on the machine of a local stack from its folder."""

import pytest

from runqy.cli.errors import ExitCode

PENDING = {"info": {"id": "t1", "queue": "sentiment", "state": "pending"}}


@pytest.fixture
def kept_key(tmp_path):
    (tmp_path / ".runqy").mkdir()
    (tmp_path / ".runqy/api_key").write_text("kept\n")


def sent_key(server):
    return server.requests[0].headers.get("authorization")


def test_key_of_the_environment_is_sent(run, server):
    server.responses = [(200, PENDING)]

    run("task", "get", "t1", env={"RUNQY_API_KEY": "mine"})

    assert sent_key(server) == "Bearer mine"


@pytest.mark.usefixtures("kept_key")
def test_kept_key_is_used_on_this_machine(run, server):
    server.responses = [(200, PENDING)]

    run("task", "get", "t1", env={"PORT": "3100"})

    assert server.requests[0].url.port == 3100
    assert sent_key(server) == "Bearer kept"


@pytest.mark.usefixtures("kept_key")
def test_kept_key_goes_to_no_other_machine(run, server):
    server.responses = [(200, PENDING)]

    run("task", "get", "t1", env={"RUNQY_SERVER_URL": "https://runqy.example.com"})

    assert sent_key(server) is None


@pytest.fixture
def kept_url(tmp_path, kept_key):
    (tmp_path / ".runqy/server_url").write_text("http://localhost:3077\n")


def test_a_folder_of_others_cannot_name_another_host(run, server, tmp_path, kept_url):
    (tmp_path / ".runqy/server_url").write_text("https://elsewhere.example.com\n")
    server.responses = [(200, PENDING)]

    run("task", "get", "t1", env={"RUNQY_API_KEY": "the-key-of-the-environment"})

    assert str(server.requests[-1].url).startswith("http://localhost:3000/")


@pytest.mark.usefixtures("kept_url")
@pytest.mark.parametrize(
    ("env", "arguments", "url"),
    [
        ({}, (), "http://localhost:3077"),
        ({"PORT": "3100"}, (), "http://localhost:3100"),
        ({"RUNQY_SERVER_URL": "http://localhost:3200"}, (), "http://localhost:3200"),
        ({"RUNQY_SERVER_URL": "http://localhost:3200"}, ("-s", "http://localhost:3300/"), "http://localhost:3300"),
    ],
)
def test_kept_address_is_used_unless_another_is_set(run, server, env, arguments, url):
    server.responses = [(200, PENDING)]

    run("task", "get", "t1", *arguments, env=env)

    assert str(server.requests[0].url) == f"{url}/queue/t1"
    assert sent_key(server) == "Bearer kept"


@pytest.mark.usefixtures("kept_url")
@pytest.mark.parametrize(
    ("response", "status"),
    [
        ((200, b"<html>"), ExitCode.UNAVAILABLE),
        ((401, {"code": "unauthorized", "detail": "A valid API key is required."}), ExitCode.DENIED),
    ],
)
def test_error_of_another_server_names_the_file_with_the_address(run, server, response, status):
    server.responses = [response] * 2

    kept = run("task", "get", "t1")
    given = run("task", "get", "t1", "-s", "http://localhost:3077")

    assert kept.exit_code == given.exit_code == status
    assert "The address is from .runqy/server_url, which `runqy up` wrote" in kept.stderr
    assert ".runqy" not in given.stderr


def test_stale_address_is_named_with_its_file(run, tmp_path):
    (tmp_path / ".runqy").mkdir()
    (tmp_path / ".runqy/server_url").write_text("http://127.0.0.1:1\n")

    result = run("task", "get", "t1")

    assert result.exit_code == ExitCode.UNAVAILABLE
    assert "http://127.0.0.1:1 cannot be reached" in result.stderr
    assert "The address is from .runqy/server_url" in result.stderr
