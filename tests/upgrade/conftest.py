"""An empty database of each kind, and Django's commands on it in processes of their own."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.postgresql import PostgresqlServer, find_programs

Commands = Callable[..., str]

POSTGRESQL = pytest.param(
    "postgresql",
    marks=[
        pytest.mark.postgresql,
        pytest.mark.skipif(find_programs() is None, reason="PostgreSQL's programs are not installed"),
    ],
)


@pytest.fixture(params=["sqlite", POSTGRESQL])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, str]]:
    """Return the settings of an empty database."""
    settings = {"RUNQY_HOME": str(tmp_path)}
    if request.param == "sqlite":
        yield settings
        return
    programs = find_programs()
    assert programs is not None
    server = PostgresqlServer(programs).start()
    yield settings | {"DATABASE_URL": server.url}
    server.stop()


@pytest.fixture
def run_commands(database: dict[str, str], tmp_path: Path) -> Commands:
    """Return a function that runs management commands, separated by `--`, and returns what they print."""

    def run(*words: str, **variables: str) -> str:
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("RUNQY_", "DATABASE_", "REDIS_"))
        }
        done = subprocess.run(
            [sys.executable, "-m", "runqy.manage", *words],
            cwd=tmp_path,
            env=kept | database | variables,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run
