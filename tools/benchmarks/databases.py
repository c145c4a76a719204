"""Run a program of this package with each database: SQLite, and PostgreSQL if its programs are installed."""

import json
import subprocess
from collections.abc import Iterator
from typing import Any

from tests.support.postgresql import PostgresqlServer, find_programs
from tools.benchmarks.stack import Stack


def run_with_each_database(stack: Stack, module: str, *words: str) -> Iterator[tuple[str, Any]]:
    """Yield the name of a database, and the JSON that the program printed."""
    yield "SQLite", _run(stack, {}, module, *words)
    if (programs := find_programs()) is not None:
        server = PostgresqlServer(programs).start()
        env = {"DATABASE_URL": server.url}
        migrate = [str(stack.source.python), "manage.py", "migrate", "-v0"]
        subprocess.run(migrate, cwd=stack.source.root, env=stack.env | env, check=True)
        yield "PostgreSQL", _run(stack, env, module, *words)
        server.stop()


def _run(stack: Stack, env: dict[str, str], module: str, *words: str) -> Any:
    command = [str(stack.source.python), "-m", module, *words]
    done = subprocess.run(command, cwd=stack.source.root, env=stack.env | env, check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)
