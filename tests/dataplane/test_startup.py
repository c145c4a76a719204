"""What a web process has done before it takes the first request."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.database import database_variables

SCRIPT = Path(__file__).with_name("starting_process.py")


def test_a_web_process_imports_loads_and_freezes_everything_before_it_serves(configuration: None) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT], env=os.environ | database_variables(), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])

    assert found["has_urls"]
    assert found["has_snapshot"]
    assert found["database_connections"] <= 1  # the poller's
    assert found["frozen"] > 100_000
    assert found["tracked"] < found["frozen"] / 10
