"""Each setting is one that operators have a reason to change, and the documentation gives it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from runqy import settings as server
from runqy.core.environment.variables import Environment
from tools.documentation import setting_reasons
from workers.runtime import settings as worker

ROOT = Path(__file__).parents[2]
PAGES = """
from tools.documentation import settings
print(*settings.server_tables().values(), settings.worker_table(), sep="\\n")
"""


def names_of_worker() -> set[str]:
    """Return the names that the worker reads."""
    environment = Environment({"RUNQY_SERVER_URL": "https://h", "RUNQY_API_KEY": "k", "RUNQY_QUEUES": "*"})
    worker.read(environment)
    return set(environment.settings)


READ_OF_SERVER, READ_OF_WORKER = set(server.env.settings), names_of_worker()


@pytest.mark.parametrize(
    ("read", "reasons", "limit"),
    [(READ_OF_SERVER, setting_reasons.SERVER, 70), (READ_OF_WORKER, setting_reasons.WORKER, 25)],
    ids=["server", "worker"],
)
def test_each_setting_has_a_reason_and_no_other_name_has_one(
    read: set[str], reasons: dict[str, str], limit: int
) -> None:
    assert set(reasons) == read
    assert all(reasons.values())
    assert len(read) <= limit  # before another one: what does an operator lose with a constant in its place?


def test_the_pages_show_each_setting_with_its_reason() -> None:
    command = [sys.executable, "-c", PAGES]  # in a process of its own, which has no variables of this one's settings
    page = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    for name, reason in [*setting_reasons.SERVER.items(), *setting_reasons.WORKER.items()]:
        assert re.search(rf"^\|.*`{name}` \|.*\| {re.escape(reason)} \|$", page, re.MULTILINE), name


def test_a_removed_setting_is_read_nowhere_and_listed_in_the_changelog() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8").partition("### Removed settings")[2]

    removed = set(server.REMOVED_VARIABLES) | set(worker.REMOVED_VARIABLES)
    assert not removed & (READ_OF_SERVER | READ_OF_WORKER)
    listed = [line.split(" | ")[0] for line in changelog.splitlines()]
    assert removed == {name for cell in listed for name in re.findall(r"`([A-Z_]+)`", cell)}
