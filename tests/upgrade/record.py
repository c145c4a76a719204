"""Record an installation of this release: `python -m tests.upgrade.record VERSION`, before the release is tagged.

It is written to `tests/upgrade/VERSION/`, where the tests of upgrades find it.
"""

import sys
import tempfile
from pathlib import Path

from tests.stack.stack import Stack, make_queue
from tests.support.postgresql import PostgresqlServer, find_programs
from tests.upgrade import installation

RECORDINGS = Path(__file__).parent


def main(version: str) -> None:
    folder = RECORDINGS / version
    folder.mkdir(exist_ok=True)
    programs = find_programs()
    if programs is None:
        sys.exit("PostgreSQL's programs are not installed: both databases are recorded.")
    record(folder / "sqlite.tar.gz", None)
    server = PostgresqlServer(programs).start()
    try:
        record(folder / "postgresql.tar.gz", server)
    finally:
        server.stop()


def record(archive: Path, server: PostgresqlServer | None) -> None:
    with tempfile.TemporaryDirectory(prefix="runqy-record-") as temporary:
        folder = Path(temporary)
        files = make_queue(folder, code=installation.CODE, settings=installation.SETTINGS)
        database = {} if server is None else {"DATABASE_URL": server.url}
        stack = Stack(folder, QUEUE_WORKERS_DIR=str(files), **installation.KEPT_FOREVER, **database).start()
        try:
            facts = installation.fill(stack)
        finally:
            stack.end()
        installation.save(stack, facts, archive, server)
    print(f"{archive}: {archive.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
