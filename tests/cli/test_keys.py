"""The key comes from the environment, and on the machine of a local stack from its folder."""

import pytest

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
