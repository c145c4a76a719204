"""The commit that figures are compared with. Its source and its virtual environment are kept in `.bench/`."""

import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.stack import ROOT, SourceTree

COMMIT = "498226788fdd80a6d1dcd8a30e103c9b04770e9d"
NAME = COMMIT[:7]
_FOLDER = ROOT / ".bench" / NAME


def get_baseline() -> SourceTree:
    """Return the baseline. The first call creates it, which takes a minute and some downloads."""
    baseline = SourceTree(
        root=_FOLDER / "source", python=_FOLDER / "venv" / "bin" / "python", application="runqy.wsgi:application"
    )
    is_complete = _FOLDER / "complete"
    if not is_complete.exists():
        print(f"Making the baseline of commit {NAME} in {_FOLDER.relative_to(ROOT)} ...", file=sys.stderr)
        shutil.rmtree(_FOLDER, ignore_errors=True)
        _FOLDER.mkdir(parents=True)
        _check_out(baseline.root)
        _install(baseline)
        is_complete.touch()
    return baseline


def _check_out(folder: Path) -> None:
    # Forced: git still lists a worktree whose folder was removed.
    words = ["git", "worktree", "add", "--quiet", "--force", "--detach", str(folder), COMMIT]
    if subprocess.run(words, cwd=ROOT, check=False).returncode:
        raise SystemExit(f"Commit {NAME} is not in this clone. Fetch the whole history: git fetch --unshallow")


def _install(baseline: SourceTree) -> None:
    """Install the requirements of the baseline, and its parser in C if that can be built."""
    uv = Path(sys.executable).with_name("uv")
    venv = str(baseline.python.parent.parent)
    if uv.exists():
        make = [str(uv), "venv", "--quiet", "--python", sys.executable, venv]
        install = [str(uv), "pip", "install", "--quiet", "--python", str(baseline.python)]
    else:
        make = [sys.executable, "-m", "venv", venv]
        install = [str(baseline.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run(make, check=True)
    subprocess.run([*install, "-r", "requirements.txt"], cwd=baseline.root, check=True)
    subprocess.run([*install, "--no-deps", "-e", "."], cwd=baseline.root, check=True)
    if subprocess.run([*install, "-r", "requirements-fast.txt"], cwd=baseline.root, check=False).returncode:
        print("Without a C compiler the baseline parses requests in Python and is slower than it was.", file=sys.stderr)
