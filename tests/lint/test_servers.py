"""A run of some tests starts only the servers that these use."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

ROOT = Path(__file__).parents[2]


def test_servers_are_started_by_the_first_test_that_uses_them() -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "RUNQY_", "REDIS_"))}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:randomly", "tests/lint/started_servers.py"],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stdout + done.stderr
