"""What management commands take over from a stack that runs in their folder."""

from pathlib import Path

import pytest

from runqy.local.beside import variables_beside
from runqy.local.locks import FileLock


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return the folder of a stack whose Valkey does not run."""
    (tmp_path / "valkey").mkdir()
    (tmp_path / "valkey" / "url").write_text("redis://127.0.0.1:1/0")
    return tmp_path


def test_nothing_is_taken_over_where_no_stack_runs(home: Path, tmp_path: Path) -> None:
    assert variables_beside({"RUNQY_HOME": str(home)}) == {}
    assert variables_beside({"RUNQY_HOME": str(tmp_path / "nowhere")}) == {}
    assert not (tmp_path / "nowhere").exists()


def test_what_is_set_stays_and_the_rest_is_taken_over(home: Path) -> None:
    lock = FileLock(home / "valkey" / "lock")

    found = variables_beside({"RUNQY_HOME": str(home), "RUNQY_API_KEY": "mine", "RUNQY_WORKER_API_KEY_FILE": "/mine"})
    elsewhere = variables_beside({"RUNQY_HOME": str(home), "REDIS_HOST": "redis.example.com"})
    lock.close()

    assert found == {
        "REDIS_URL_FILE": str(home / "valkey/url"),
        "RUNQY_VAULT_MASTER_KEY_FILE": str(home / "vault_master_key"),
    }
    assert elsewhere == {}
