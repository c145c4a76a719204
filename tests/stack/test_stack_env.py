"""What management commands take over from a stack that runs in their folder."""

from pathlib import Path

import pytest

from runqy.stack.locks import FileLock
from runqy.stack.stack_env import stack_variables


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return the folder of a stack whose Valkey does not run."""
    (tmp_path / "valkey").mkdir()
    (tmp_path / "valkey" / "url").write_text("redis://127.0.0.1:1/0")
    return tmp_path


def test_no_variables_are_set_when_no_stack_is_running(home: Path, tmp_path: Path) -> None:
    assert stack_variables({"RUNQY_HOME": str(home)}) == {}
    assert stack_variables({"RUNQY_HOME": str(tmp_path / "nowhere")}) == {}
    assert not (tmp_path / "nowhere").exists()


def test_variables_that_are_set_are_kept_and_the_others_added(home: Path) -> None:
    lock = FileLock(home / "valkey" / "lock")

    found = stack_variables({"RUNQY_HOME": str(home), "RUNQY_API_KEY": "mine", "RUNQY_WORKER_API_KEY_FILE": "/mine"})
    elsewhere = stack_variables({"RUNQY_HOME": str(home), "REDIS_HOST": "redis.example.com"})
    lock.close()

    assert found == {
        "REDIS_URL_FILE": str(home / "valkey/url"),
        "RUNQY_VAULT_MASTER_KEY_FILE": str(home / "vault_master_key"),
    }
    assert elsewhere == {}
