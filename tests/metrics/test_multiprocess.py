"""The folder of a gunicorn's metrics."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runqy.server.metrics import multiprocess


@pytest.fixture(autouse=True)
def _restores_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(multiprocess.VARIABLE, "")


def make_folder(home: Path, name: str) -> Path:
    """Create a folder with a file of metrics."""
    folder = home / "metrics" / name
    folder.mkdir(parents=True)
    (folder / "counter_1.db").write_bytes(b"x")
    return folder


def test_a_gunicorn_starts_with_an_empty_folder_of_its_own(tmp_path: Path) -> None:
    make_folder(tmp_path, f"{socket.gethostname()}-{os.getpid()}")

    folder = multiprocess.set_folder(tmp_path)
    multiprocess.prepare_folder(folder, tmp_path)

    assert os.environ["PROMETHEUS_MULTIPROC_DIR"] == str(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert list(folder.iterdir()) == []


def test_of_a_folder_that_the_operator_chose_only_metrics_are_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = make_folder(tmp_path / "elsewhere", "chosen")
    (chosen / "precious").touch()
    beside = make_folder(tmp_path / "elsewhere", f"{socket.gethostname()}-999999999")
    monkeypatch.setenv(multiprocess.VARIABLE, str(chosen))

    folder = multiprocess.set_folder(tmp_path)
    multiprocess.prepare_folder(folder, tmp_path)

    assert folder == chosen
    assert [path.name for path in chosen.iterdir()] == ["precious"]
    assert beside.exists()


def test_a_replacing_master_leaves_the_folder_of_the_one_that_started_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = make_folder(tmp_path, f"{socket.gethostname()}-{os.getppid()}")
    monkeypatch.setenv(multiprocess.VARIABLE, str(before))

    folder = multiprocess.set_folder(tmp_path)
    multiprocess.prepare_folder(folder, tmp_path)

    assert folder != before
    assert before.exists()


def test_folders_of_processes_that_ended_are_deleted(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    gone = make_folder(tmp_path, f"{socket.gethostname()}-{ended.pid}")
    elsewhere, abandoned = make_folder(tmp_path, "other-host-1"), make_folder(tmp_path, "other-host-2")
    day_before_s = time.time() - 25 * 3600
    for path in (abandoned, *abandoned.iterdir()):
        os.utime(path, (day_before_s, day_before_s))

    multiprocess.prepare_folder(multiprocess.set_folder(tmp_path), tmp_path)

    assert [folder.exists() for folder in (gone, elsewhere, abandoned)] == [False, True, False]
