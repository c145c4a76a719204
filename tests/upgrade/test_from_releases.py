"""An installation of each release works with this code: its database after `migrate`, its Redis as it is.

A recorded installation is the folder of a `runqy up` (database, data of Valkey, keys) with something of everything.
What an upgrade needs in Redis beyond starting the new server would be done here, before the start; so far nothing is.
"""

from pathlib import Path

import pytest

from tests.stack.stack import Stack, make_queue
from tests.support.postgresql import PostgresqlServer, find_programs
from tests.upgrade import installation

RECORDINGS = sorted(Path(__file__).parent.glob("*/*.tar.gz"))

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def case(archive: Path) -> object:
    is_postgresql = archive.name.startswith("postgresql")
    skip = pytest.mark.skipif(find_programs() is None, reason="PostgreSQL's programs are not installed")
    return pytest.param(
        archive,
        id=f"{archive.parent.name}-{archive.name.partition('.')[0]}",
        marks=[pytest.mark.postgresql, skip] if is_postgresql else [],
    )


@pytest.mark.parametrize("archive", [case(archive) for archive in RECORDINGS])
def test_an_installation_works_on_after_its_upgrade(
    archive: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    server = None
    if archive.name.startswith("postgresql"):
        programs = find_programs()
        assert programs is not None
        server = PostgresqlServer(programs).start()
        request.addfinalizer(server.stop)
    database = {} if server is None else {"DATABASE_URL": server.url}
    files = make_queue(tmp_path, code=installation.CODE, settings=installation.SETTINGS)
    stack = Stack(tmp_path, QUEUE_WORKERS_DIR=str(files), **installation.KEPT_FOREVER, **database)
    facts = installation.restore(archive, stack.home, server)
    request.addfinalizer(stack.end)

    stack.start()

    installation.check(stack, facts)


def test_both_databases_of_the_first_release_are_recorded() -> None:
    assert {"1.0/sqlite.tar.gz", "1.0/postgresql.tar.gz"} <= {f"{path.parent.name}/{path.name}" for path in RECORDINGS}
