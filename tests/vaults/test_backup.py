"""A dump of the database and the master key are a backup of the vaults."""

import base64
import os
import secrets
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.secret_leaks import SUITE

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SET = """
import os
from vaults.operations import create_vault, set_entry
create_vault(name="api-keys")
set_entry(vault="api-keys", key="TOKEN", value=os.environ["SECRET_OF_TEST"])
"""


def manage(home: Path, master_key: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run manage.py with a RUNQY_HOME of its own, without Redis."""
    known = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    environment = known | {"RUNQY_HOME": str(home), "RUNQY_VAULT_MASTER_KEY": master_key, **variables}
    words = [sys.executable, str(ROOT / "manage.py"), *arguments]
    return subprocess.run(words, env=environment, capture_output=True, text=True)


def new_master_key() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode()


def test_a_restored_dump_is_read_with_the_master_key_and_with_no_other(tmp_path: Path) -> None:
    home, restored, value, key = tmp_path / "home", tmp_path / "restored", SUITE.secret(), new_master_key()
    assert manage(home, key, "migrate", "--no-input").returncode == 0
    done = manage(home, key, "shell", "--command", SET, SECRET_OF_TEST=value)
    assert done.returncode == 0, done.stderr

    restored.mkdir(mode=0o700)
    with (
        closing(sqlite3.connect(home / "db.sqlite3")) as source,
        closing(sqlite3.connect(restored / "db.sqlite3")) as copy,
    ):
        source.backup(copy)
    exported, refused = (manage(restored, one, "export_vault", "api-keys") for one in (key, new_master_key()))

    assert (exported.stdout, exported.returncode) == (f"TOKEN='{value}'\n", 0), exported.stderr
    assert (refused.stdout, refused.returncode) == ("", 1)
    assert "api-keys/TOKEN" in refused.stderr
