"""Structs that several threads read for the first time."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_threads_may_be_the_first_to_read_a_struct_together() -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "tests.formats.reading_process"], cwd=ROOT, capture_output=True, text=True
    )

    assert finished.returncode == 0, finished.stderr
