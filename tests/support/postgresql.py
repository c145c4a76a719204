"""Start a PostgreSQL for tests, if its programs are installed."""

import atexit
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.support.servers import free_port


def find_programs() -> Path | None:
    """Return the folder with PostgreSQL's programs, the newest if there are several; None without any."""
    if on_path := shutil.which("initdb"):
        return Path(on_path).parent
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    return max(found, key=lambda folder: int(folder.parent.name), default=None)


class PostgresqlServer:
    """A PostgreSQL on a free loopback port. `stop` removes its folder too."""

    def __init__(self, programs: Path) -> None:
        self.port = free_port()
        self._programs = programs
        self._folder = Path(tempfile.mkdtemp(prefix="runqy-test-postgresql-"))
        self._user = "postgres" if os.geteuid() == 0 else None  # it refuses to run as root
        if self._user is not None:
            shutil.chown(self._folder, self._user)
        atexit.register(self.stop)

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    @property
    def pid(self) -> int:
        """The id of the process that starts the others."""
        return int((self._data / "postmaster.pid").read_text().split()[0])

    def start(self) -> "PostgresqlServer":
        """Create a cluster, without durability, and start it."""
        self._run("initdb", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-sync", str(self._data))
        self.resume()
        return self

    def resume(self) -> None:
        """Start it with its present data."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -k {self._folder} -c fsync=off"
        log = str(self._folder / "log")
        self._run("pg_ctl", "--pgdata", str(self._data), "--log", log, "--options", options, "--wait", "start")

    def interrupt(self) -> None:
        """End it at once and keep its data."""
        self._run("pg_ctl", "--pgdata", str(self._data), "--mode=immediate", "stop")

    def halt(self) -> None:
        """End it cleanly and keep its data."""
        self._run("pg_ctl", "--pgdata", str(self._data), "--mode=fast", "stop")

    def stop(self) -> None:
        if (self._data / "postmaster.pid").exists():
            self.interrupt()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def _run(self, program: str, *args: str) -> None:
        done = subprocess.run(
            [self._programs / program, *args],
            user=self._user,
            cwd=self._folder,
            stdout=subprocess.PIPE if program == "initdb" else subprocess.DEVNULL,
            stderr=subprocess.PIPE if program == "initdb" else subprocess.DEVNULL,
            text=True,
        )
        assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}"
