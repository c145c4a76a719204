"""The commits that figures are compared with. Their sources and virtual environments are kept in `.bench/`."""

import shutil
import subprocess
import sys
from pathlib import Path

from tools.benchmarks.stack import ROOT, SourceTree

COMMIT = "498226788fdd80a6d1dcd8a30e103c9b04770e9d"
NAME = COMMIT[:7]


def get_baseline(commit: str = COMMIT) -> SourceTree:
    """Return the source tree of a commit. The first call creates it, which takes a minute and some downloads."""
    words = ["git", "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}"]
    full = subprocess.run(words, cwd=ROOT, check=False, stdout=subprocess.PIPE, text=True).stdout.strip()
    if not full:
        raise SystemExit(f"Commit {commit} is not in this clone. Fetch the whole history: git fetch --unshallow")
    folder = ROOT / ".bench" / full[:7]
    source, is_complete = folder / "source", folder / "complete"
    if not is_complete.exists():
        print(f"Installing commit {commit} in {folder.relative_to(ROOT)} ...", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        # Forced: git still lists a worktree whose folder was removed.
        subprocess.run(["git", "worktree", "add", "--quiet", "--force", "--detach", source, full], cwd=ROOT, check=True)
        _install(source, folder / "venv")
        is_complete.touch()
    application = "asgi" if (source / "runqy" / "asgi.py").exists() else "wsgi"
    return SourceTree(
        root=source, python=folder / "venv" / "bin" / "python", application=f"runqy.{application}:application"
    )


def _install(source: Path, venv: Path) -> None:
    """Install what a commit requires, and its parser in C if it has one that can be built."""
    uv, python = Path(sys.executable).with_name("uv"), venv / "bin" / "python"
    if uv.exists():
        make = [str(uv), "venv", "--quiet", "--python", sys.executable, str(venv)]
        install = [str(uv), "pip", "install", "--quiet", "--python", str(python)]
    else:
        make = [sys.executable, "-m", "venv", str(venv)]
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run(make, check=True)
    subprocess.run([*install, "-r", "requirements.txt"], cwd=source, check=True)
    subprocess.run([*install, "--no-deps", "-e", "."], cwd=source, check=True)
    has_parser = (source / "requirements-fast.txt").exists()
    if has_parser and subprocess.run([*install, "-r", "requirements-fast.txt"], cwd=source, check=False).returncode:
        print("Without a C compiler this commit parses requests in Python and is slower than it was.", file=sys.stderr)
