"""Fixtures of the worker's tests."""

from pathlib import Path

import pytest

from tests.workers.repositories import Repository


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """Return an empty git repository."""
    return Repository(tmp_path / "repository")
