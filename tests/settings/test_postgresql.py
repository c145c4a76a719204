"""What the database does on SQLite it does on PostgreSQL too."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.postgresql import PostgresqlServer, find_programs

ROOT = Path(__file__).parents[2]
SUITES = ("accounts audit config_sync queues queues_api", "vaults vaults_api workers_api history")
"""The suites whose code reads and writes rows, in parts that can go on side by side."""

KEPT_OPEN = "error\nignore:.*was deleted while still open:ResourceWarning"

pytestmark = [
    pytest.mark.postgresql,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(find_programs() is None, reason="PostgreSQL's programs are not installed"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresqlServer]:
    """Return a PostgreSQL server."""
    programs = find_programs()
    assert programs is not None
    server = PostgresqlServer(programs).start()
    yield server
    server.stop()


@pytest.mark.parametrize("suites", SUITES)
def test_suites_that_use_the_database_pass_on_postgresql(server: PostgresqlServer, suites: str) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "RUNQY_", "REDIS_"))}
    env["RUNQY_TEST_DATABASE_URL"] = server.url
    folders = [f"tests/{suite}" for suite in suites.split()]

    done = subprocess.run(
        # Connections are kept for a thread's later requests, and a test's threads have none.
        [sys.executable, "-m", "pytest", "-o", f"filterwarnings={KEPT_OPEN}", *folders],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stdout[-6000:]


def test_the_whole_database_is_built_by_the_migrations(server: PostgresqlServer, tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("RUNQY_")}
    env |= {"RUNQY_HOME": str(tmp_path), "DATABASE_URL": server.url}
    (tmp_path / "password").write_text("a-password\n")
    commands = ("migrate", "--no-input", "--", "ensure_admin", str(tmp_path / "password"), "--", "migrate", "--check")

    done = subprocess.run(
        [sys.executable, "-m", "runqy.management_commands", *commands],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr
