"""`make run` on a machine that lacks something."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_python_without_venv_names_the_package_to_install(tmp_path: Path) -> None:
    (tmp_path / "sdk").mkdir()
    for name in ("Makefile", "requirements.txt", "pyproject.toml", "sdk/pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "ensurepip.py").write_text("raise ModuleNotFoundError('as in Debian')\n")

    ended = subprocess.run(
        ["make", "run", f"PYTHON={sys.executable}"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    package = f"python3.{sys.version_info.minor}-venv"
    assert ended.returncode != 0
    assert f"on Debian and Ubuntu: apt install {package}" in ended.stdout
    assert not (tmp_path / ".venv").exists()
