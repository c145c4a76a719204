"""The commands of docs/how-to/backup-and-restore.md save an installation, and bring it back on an empty machine."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.docs.blocks import read_titled
from tests.stack.stack import Stack, make_queue
from tests.support.postgresql import PostgresqlServer, find_programs
from tests.support.servers import ValkeyServer
from tests.upgrade import installation

PROGRAMS = ("sqlite3", "redis-cli")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(not all(map(shutil.which, PROGRAMS)), reason=f"{' or '.join(PROGRAMS)} is not installed"),
]

PAGE = read_titled("docs/how-to/backup-and-restore.md")
NEEDS_POSTGRESQL = [
    pytest.mark.postgresql,
    pytest.mark.skipif(find_programs() is None, reason="PostgreSQL's programs are not installed"),
]
ALL_OF_POSTGRESQL = pytest.param("PostgreSQL", marks=[*NEEDS_POSTGRESQL, pytest.mark.release])
"""The whole installation takes long, and but for two commands is that of SQLite."""


class Machine:
    """A folder with a server's home, a database and a Redis of its own."""

    def __init__(self, folder: Path, files: Path, database: str) -> None:
        folder.mkdir()
        self.redis = ValkeyServer()
        self.postgresql: PostgresqlServer | None = None
        self.variables = {"REDIS_URL": self.redis.url, "QUEUE_WORKERS_DIR": str(files)} | installation.KEPT_FOREVER
        if database == "PostgreSQL" and (programs := find_programs()):
            self.postgresql = PostgresqlServer(programs).start()
            self.variables["DATABASE_URL"] = self.postgresql.url
        self.stack = Stack(folder, **self.variables)

    def follow(self, *titles: str, backup: Path) -> None:
        """Run commands of the page with the variables of this server."""
        env = {
            name: text for name, text in os.environ.items() if not name.startswith(("RUNQY_", "REDIS_", "DATABASE_"))
        }
        env |= self.variables | {
            "RUNQY_HOME": str(self.stack.home),
            "RUNQY_VAULT_MASTER_KEY_FILE": str(self.stack.home / "vault_master_key"),
            "BACKUP": str(backup),
            "REDIS_DIR": str(self.redis.folder),
            "PATH": f"{Path(sys.executable).parent}:{env['PATH']}",
        }
        for title in titles:
            done = subprocess.run(["bash", "-euc", PAGE[title]], env=env, capture_output=True, text=True)
            assert done.returncode == 0, f"{title}: {done.stdout}{done.stderr}"

    def stop(self) -> None:
        self.stack.end()
        self.redis.stop()
        if self.postgresql is not None:
            self.postgresql.stop()


@pytest.fixture(params=["SQLite", ALL_OF_POSTGRESQL])
def database(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def machines(database: str, tmp_path: Path) -> Iterator[tuple[Machine, Machine]]:
    """Return a machine that is saved, and an empty one."""
    files = make_queue(tmp_path, code=installation.CODE, settings=installation.SETTINGS)
    found = Machine(tmp_path / "old", files, database), Machine(tmp_path / "new", files, database)
    yield found
    for machine in found:
        machine.stop()


def test_a_backup_is_restored_on_an_empty_machine(
    machines: tuple[Machine, Machine], database: str, tmp_path: Path
) -> None:
    old, new = machines
    backup = tmp_path / "backup"
    backup.mkdir()
    old.redis.start()
    old.stack.start()
    facts = installation.fill(old.stack)
    old.follow(*(f"back up {what}" for what in (database, "the keys", "Redis")), backup=backup)
    later = installation.run_task(old.stack, {"say": "after the backup"})
    old.stack.end()

    new.follow("restore the keys", f"restore {database}", "restore Redis", backup=backup)
    new.redis.start()
    new.follow("write the append-only file again", "publish the configuration", "check the restore", backup=backup)
    for name in ("api_key", "worker_api_key"):  # of the environment, which is in no backup
        shutil.copy(tmp_path / "old/home" / name, new.stack.home)
    new.stack.start()

    installation.check(new.stack, facts)
    assert installation.find_runs(new.stack, later["id"]) == []
    new.stack.end()
    new.redis.kill()
    new.redis.options = ("--appendonly", "yes")
    new.redis.start()
    with new.redis.client() as client:
        assert client.exists(f"asynq:t:{facts['completed']}")


@pytest.mark.parametrize("database", [pytest.param("PostgreSQL", marks=NEEDS_POSTGRESQL)], indirect=True)
def test_a_dump_of_postgresql_is_restored_into_an_empty_database(
    machines: tuple[Machine, Machine], tmp_path: Path
) -> None:
    old, new = machines
    assert old.postgresql is not None
    assert new.postgresql is not None
    old.redis.start()
    old.stack.manage("migrate", "--no-input", "-v0")
    old.stack.manage("load_queues", old.variables["QUEUE_WORKERS_DIR"])

    old.follow("back up PostgreSQL", backup=tmp_path)
    new.follow("restore PostgreSQL", backup=tmp_path)

    with psycopg.connect(new.postgresql.url) as connection:
        assert connection.execute("SELECT name FROM queues_queue").fetchall() == [("echo",)]
    new.stack.manage("migrate", "--check")
