"""The backend of Django's tasks, in a process of each Django that it is for."""

import os
import subprocess
from pathlib import Path

import pytest

from queues.definitions import FieldType, LimitOverrides, PayloadField
from queues.demand import record_demand
from runqy.broker.broker import Broker
from runqy.broker.workers.records import WorkerRecord, WorkerState
from runqy.maintenance.failed_rows import RowFailures
from tests.queues.samples import spec
from tests.queues.stored import store_queues
from tests.sdk.django.worker import django_worker
from tests.support.environment import ADMIN_KEY, CLIENT_KEY
from tests.support.workers import heartbeats

ROOT = Path(__file__).parents[3]
PROJECT = Path(__file__).parent / "project"
UV = ROOT / ".venv" / "bin" / "uv"
QUEUES = ("default", "emails", "foreign", "ranked_high", "ranked_low")
ALONE = ("-q", "-c", os.devnull, "--noconftest", "-p", "no:cacheprovider")
"""Options for tests that have nothing to do with these."""

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("python_versions", "packages"),
    [
        pytest.param(("3.12", "3.13", "3.14"), ["django>=6.0,<7"], id="django-6"),
        pytest.param(
            ("3.11", "3.12", "3.13"),
            ["django>=5.2,<6", "django-tasks>=0.12,<1"],
            marks=pytest.mark.release,
            id="django-5.2",
        ),
    ],
)
def test_cases_of_django_pass(  # noqa: PLR0917 (fixtures)
    configuration: None,
    single_broker: Broker,
    served_data_plane: str,
    tmp_path: Path,
    python_versions: tuple[str, ...],
    packages: list[str],
) -> None:
    python = make_environment(tmp_path / "environment", python_versions, packages)
    field = PayloadField(name="text", type=(FieldType.STRING,), required=True)
    store_queues(
        *map(spec, ("broken", "default", "foreign", "unserved")),
        spec("emails", limits=LimitOverrides(max_retry=1)),
        spec("ranked", "high:10", "low:1"),
        spec("strict", input=(field,)),
    )
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT / "sdk"),
        "PYTHONPYCACHEPREFIX": str(tmp_path / "compiled"),
        "DJANGO_SETTINGS_MODULE": "settings",
        "TEST_FOLDER": str(tmp_path),
        "TEST_URL": served_data_plane,
        "TEST_KEY": CLIENT_KEY,
        "TEST_ADMIN_KEY": ADMIN_KEY,
    }
    (tmp_path / "worker").mkdir()
    elsewhere = {"RUNQY_WORKER_ID": "w1", "RUNQY_COMMIT": "5" * 40, "TEST_FOLDER": str(tmp_path / "worker")}
    project = {"cwd": PROJECT, "env": environment | elsewhere}
    broken = WorkerRecord(
        worker_id="w2",
        host="h",
        pid=1,
        server_id="s",
        queue="broken",
        redis_queues={"broken": 1},
        state=WorkerState.START_FAILED,
        reason="requires Python>=3.12",
        started_at_s=1,
    )
    with (
        heartbeats(single_broker, broken),
        django_worker(single_broker, QUEUES, [str(python), "-m", "runqy_sdk.django"], **project),
    ):
        record_demand(single_broker, RowFailures("demand"))  # as maintenance does, for who may not see workers
        cases = subprocess.run(
            [str(python), "-m", "pytest", *ALONE, "-W", "error", "cases.py"],
            cwd=PROJECT,
            env=environment,
            text=True,
            capture_output=True,
        )

    if cases.returncode:
        pytest.fail(cases.stdout + cases.stderr, pytrace=False)


def make_environment(folder: Path, python_versions: tuple[str, ...], packages: list[str]) -> Path:
    """Return the Python of a new environment with Django and what clients need. Skip where there is no such Python."""
    found = next(filter(None, map(find_python, python_versions)), None)
    if found is None:
        pytest.skip(f"needs Python {' or '.join(python_versions)}")
    environment = os.environ | {"VIRTUAL_ENV": str(folder)}
    subprocess.run([str(UV), "venv", "-q", "--python", found, str(folder)], check=True)
    subprocess.run(
        [str(UV), "pip", "install", "-q", *packages, "httpx2>=2.16,<3", "pytest>=9,<10"], check=True, env=environment
    )
    return folder / "bin" / "python"


def find_python(version: str) -> str:
    """Return the path of an interpreter; empty if none can be had."""
    found = subprocess.run([str(ROOT / ".ci" / "find-python"), version], text=True, capture_output=True)
    return found.stdout.strip() if found.returncode == 0 else ""
