"""Build the packages of this repository, as a release has them."""

import atexit
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]


@cache
def release_wheels() -> Path:
    """Return a folder with the wheels of runqy and of the SDK."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder]
    for source in (ROOT, ROOT / "sdk"):
        subprocess.run(build, cwd=source, check=True, capture_output=True)
    return folder
