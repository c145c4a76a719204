"""A start beside foreign packages with the names of runqy's fails with the reason."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from runqy.core.environment.own_packages import APPS
from tests.support.processes import make_shadowing_modules

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
STARTS = {
    "up": ("runqy.cli", "up"),
    "serve": ("runqy.cli", "serve"),
    "manage": ("runqy.cli", "manage", "migrate"),
    "web": ("runqy.server.dataplane.gunicorn_app", "runqy.asgi:application", "--config", "python:runqy.gunicorn_conf"),
    "asgi": ("uvicorn", "runqy.asgi:application"),
    "maintenance": ("django", "run_maintenance"),
    "worker": ("runqy.worker",),
}
ADVICE = (
    "is not runqy's; install runqy into an environment of its own, in which nothing else is named alerts, batches, "
    "queues, schedules, tasks, vaults, webhooks or workers."
)


def start(home: Path, *words: str, path: Path) -> "subprocess.CompletedProcess[str]":
    """Run a module as another user would, with a folder first on Python's path."""
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("RUNQY_", "REDIS_"))},
        "RUNQY_HOME": str(home),
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "DJANGO_SETTINGS_MODULE": "runqy.settings",
        "PYTHONPATH": str(path),
    }
    return subprocess.run(
        [sys.executable, "-P", "-m", *words], env=env, capture_output=True, text=True, cwd=home.parent
    )


@pytest.mark.parametrize("words", STARTS.values(), ids=STARTS)
def test_foreign_package_that_is_first_on_the_path_is_refused(tmp_path: Path, words: tuple[str, ...]) -> None:
    folder = make_shadowing_modules(tmp_path / "foreign")
    for name in ("django", "gunicorn", "runqy"):
        (folder / name / "__init__.py").unlink()

    ended = start(tmp_path / "home", *words, path=folder)

    assert ended.returncode == 1
    assert ended.stderr == f"runqy: the package alerts of {folder}/alerts/__init__.py {ADVICE}\n"
    assert not (folder / "imported").exists()


@pytest.mark.parametrize("words", [STARTS["up"], STARTS["worker"]], ids=["up", "worker"])
def test_foreign_distribution_in_the_same_folder_is_refused(tmp_path: Path, words: tuple[str, ...]) -> None:
    packages = tmp_path / "site-packages"
    for distribution, module in (("runqy-1.0.0", "tasks"), ("celery_jobs-2.1", "tasks"), ("tasksmith-3", "tasksmith")):
        (packages / f"{distribution}.dist-info").mkdir(parents=True)
        (packages / f"{distribution}.dist-info/RECORD").write_text(f"README,,\n{module}/jobs.py,sha256=,1\n")
    for name in ("runqy", *APPS):
        (packages / name).symlink_to(ROOT / name)

    ended = start(tmp_path / "home", *words, path=packages)

    assert ended.returncode == 1
    assert ended.stderr == f"runqy: the package tasks of celery_jobs 2.1 {ADVICE}\n"
