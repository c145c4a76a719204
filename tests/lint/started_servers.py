"""Tests that look at what this process has started; `test_servers.py` runs them by themselves and in this order."""

import os
from pathlib import Path

import pytest

from tests.support.processes import get_children, get_command_line


def started() -> list[str]:
    """Return the names of the programs that this process has started."""
    return [Path(get_command_line(pid).split()[0]).name for pid in get_children(os.getpid())]


@pytest.mark.parametrize(
    ("fixture", "servers"), [("tmp_path", 0), ("stopped_clock", 0), ("redis", 1), ("db", 1), ("cluster_broker", 1 + 3)]
)
def test_a_fixture_starts_its_servers_alone(fixture: str, servers: int, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue(fixture)

    assert started() == ["valkey-server"] * servers
