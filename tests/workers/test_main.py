"""The program as people start it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from workers.runtime.registration import own_version

pytestmark = pytest.mark.slow


def run_worker(*args: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    env = {"PATH": os.environ["PATH"], **environ}
    return subprocess.run(
        [sys.executable, "-m", "workers.runtime.main", *args], env=env, capture_output=True, text=True
    )


def test_a_missing_setting_is_one_sentence_and_no_traceback() -> None:
    done = run_worker()

    assert done.returncode == 2
    assert done.stderr == "RUNQY_SERVER_URL (server.url in the configuration file) is not set.\n"


@pytest.mark.parametrize("spelling", ["--config", "-config"])
def test_a_configuration_file_is_given_as_the_go_worker_takes_it(spelling: str, tmp_path: Path) -> None:
    (tmp_path / "config.yml").write_text("server: {url: 'https://h', api_key: k}\nworker: {queue: q, concurrency: no}")

    done = run_worker(spelling, str(tmp_path / "config.yml"))

    assert done.returncode == 2
    assert done.stderr == (
        "RUNQY_CONCURRENCY (worker.concurrency in the configuration file): 'no' is not a whole number from 1 to 1000.\n"
    )


def test_the_version_is_printed() -> None:
    done = run_worker("--version")

    assert (done.returncode, done.stdout.strip()) == (0, own_version())


def test_the_worker_imports_no_django() -> None:
    code = "import sys, workers.runtime.main; print([name for name in sys.modules if 'django' in name])"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_a_worker_refuses_to_send_its_key_unencrypted() -> None:
    environ = {"RUNQY_SERVER_URL": "http://runqy.example.org", "RUNQY_API_KEY": "k", "RUNQY_QUEUES": "q"}

    done = run_worker(**environ)

    assert done.returncode == 2
    assert done.stderr.startswith("RUNQY_SERVER_URL (server.url in the configuration file) is http, so ")
    assert len(done.stderr.splitlines()) == 1
