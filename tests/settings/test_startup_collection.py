"""Processes that have started collect garbage, but not among what they have imported."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
STARTS = {
    "web": "import runqy.wsgi",
    "command": "from runqy.manage import main; main(['check'])",
}


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_a_started_process_collects_garbage(start: str) -> None:
    program = f"import gc\n{start}\nprint(gc.isenabled(), gc.get_freeze_count() > 100_000)"

    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[-1] == "True True"
