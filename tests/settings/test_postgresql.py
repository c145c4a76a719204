"""What the database does on SQLite it does on PostgreSQL too."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.support.postgresql import PostgresqlServer, find_programs

ROOT = Path(__file__).parents[2]
WITH_PROCESSES = [
    "tests/vaults/test_rotation.py::test_a_killed_rotation_continues_and_workers_can_register_meanwhile",
    "tests/queues/test_deletion.py::test_maintenance_finishes_the_deletion_of_a_killed_process",
]
"""Tests of modules below that start processes, whose statements the others of their modules send too."""
KEPT_OPEN = "error\nignore:.*was deleted while still open:ResourceWarning"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.postgresql,
    pytest.mark.timeout(600),
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


def run_tests(server: PostgresqlServer, *paths: str) -> None:
    """Run tests on this server. Those that use no database are left out."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "RUNQY_", "REDIS_"))}
    env["RUNQY_TEST_DATABASE_URL"] = server.url

    left_out = [f"--deselect={name}" for name in WITH_PROCESSES]
    done = subprocess.run(
        # Connections are kept for a thread's later requests, and a test's threads have none.
        [sys.executable, "-m", "pytest", "-m", "not cluster", "-o", f"filterwarnings={KEPT_OPEN}", *left_out, *paths],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stdout[-6000:]


def modules(folder: str, names: str) -> list[str]:
    """Return the paths of modules of tests."""
    return [f"tests/{folder}/test_{name}.py" for name in names.split()]


# The tests of statements that differ between the two: triggers, locks, upserts, JSON, constraints, sums, raw SQL and
# searches; and all pages and routes once, for what one of them refuses. Others send no statement of another kind.


class TestHistoryAndAudit:
    def test_passes(self, server: PostgresqlServer) -> None:
        run_tests(
            server,
            *modules("accounts", "descendants keys staff staff_rights"),
            *modules("admin_site", "page_states"),
            *modules("audit", "admin moving records retention routes"),
            *modules("tasks/history", "error_groups odd_names recorder run_log run_queries"),
            *modules("tasks/history", "sampling_and_retention write_transactions"),
            *modules("tasks", "run_search"),
            "tests/tasks/history/test_process.py::test_two_processes_store_each_run_once_although_one_is_killed",
        )


class TestQueuesVaultsAndWebhooks:
    def test_passes(self, server: PostgresqlServer) -> None:
        run_tests(
            server,
            *modules("alerts", "operations"),
            *modules("batches", "api life limits turns"),
            *modules("configuration", "publishing republishing"),
            *modules("maintenance", "failed_rows retention"),
            *modules("queues", "deletion operations releases"),
            *modules("schedules", "odd_rows runner"),
            *modules("vaults", "access_log git_tokens rotation versions vaults"),
            *modules("webhooks", "claims ends kept sender"),
            "tests/webhooks/concurrent_changes.py",
        )


@pytest.mark.parametrize(("ctype", "is_reported"), [("C", True), ("C.UTF-8", False)])
def test_a_database_without_letters_outside_ascii_is_reported(
    server: PostgresqlServer, tmp_path: Path, ctype: str, is_reported: bool
) -> None:
    name = f"letters_{is_reported}".lower()
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE '{ctype}'")
    env = {name: value for name, value in os.environ.items() if not name.startswith("RUNQY_")}
    env |= {"RUNQY_HOME": str(tmp_path), "DATABASE_URL": server.url.removesuffix("postgres") + name}

    done = subprocess.run(
        [sys.executable, "-m", "runqy.manage", "migrate", "--plan"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr
    assert ("runqy.W011" in done.stderr) == is_reported
