"""What an instance keeps is its user's alone, whatever the umask and the modes were before."""

import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SERVER = {
    "manage.py": [str(ROOT / "manage.py"), "migrate", "contenttypes"],
    "commands": ["-m", "runqy.manage", "migrate", "contenttypes"],
    "django": ["-m", "django", "migrate", "contenttypes"],
}
WRITE = "import os, pathlib; pathlib.Path(os.environ['NEW_FILE']).write_text('')"
IMPORTS = {
    "wsgi": "import runqy.wsgi",
    "asgi": "import runqy.asgi",
    "serve": "import runqy.stack.serve",
    "up": "import runqy.stack.up",
}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def run(args: list[str], home: Path, **environ: str) -> None:
    """Run Python under a umask that leaves everything open."""
    env = {"PATH": os.environ["PATH"], "RUNQY_HOME": str(home), "REDIS_URL": os.environ["REDIS_URL"]} | environ
    env["DJANGO_SETTINGS_MODULE"] = "runqy.settings"
    subprocess.run([sys.executable, *args], env=env, umask=0, cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("entry", SERVER)
def test_a_new_database_is_its_users_alone(tmp_path: Path, entry: str) -> None:
    home, database = tmp_path / "home", tmp_path / "elsewhere.sqlite3"

    run(SERVER[entry], home, SQLITE_DB_PATH=str(database))

    assert (mode(home), mode(database)) == (0o700, 0o600)


@pytest.mark.parametrize("variable", ["SQLITE_DB_PATH", "DATABASE_URL"])
def test_an_existing_home_database_and_journals_are_taken_from_other_users(tmp_path: Path, variable: str) -> None:
    home, database = tmp_path / "home", tmp_path / "elsewhere.sqlite3"
    home.mkdir(mode=0o755)
    connection = sqlite3.connect(database)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE first (id)")
    journals = [tmp_path / f"elsewhere.sqlite3-{name}" for name in ("wal", "shm")]
    for path in (database, *journals):
        path.chmod(0o666)

    run(["-c", "import runqy.settings"], home, **{variable: f"sqlite:///{database}"[10 * (variable[0] == "S") :]})

    modes = [mode(path) for path in (home, database, *journals)]
    connection.close()
    assert modes == [0o700, 0o600, 0o600, 0o600]


@pytest.mark.parametrize("entry", IMPORTS)
def test_each_entry_point_writes_files_for_its_user_alone(tmp_path: Path, entry: str) -> None:
    new_file = tmp_path / "new"

    run(["-c", f"{IMPORTS[entry]}; {WRITE}"], tmp_path / "home", NEW_FILE=str(new_file))

    assert mode(new_file) == 0o600


def test_a_worker_takes_its_home_from_other_users(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o755)
    settings = {"RUNQY_SERVER_URL": "https://127.0.0.1:1", "RUNQY_API_KEY": "k", "RUNQY_QUEUES": "q"}
    once = {"RUNQY_BOOTSTRAP_RETRIES": "1", "RUNQY_BOOTSTRAP_RETRY_DELAY": "0s"}
    code = f"import atexit, workers.runtime.main as program; atexit.register(lambda: exec({WRITE!r}, {{}}))"
    code += "; program.main()"

    with pytest.raises(subprocess.CalledProcessError):  # there is no server
        run(["-c", code], home, NEW_FILE=str(tmp_path / "new"), **settings, **once)

    assert (mode(home), mode(tmp_path / "new")) == (0o700, 0o600)
