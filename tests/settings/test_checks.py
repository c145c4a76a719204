"""What `manage.py check` says about settings."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRODUCTION = {
    "RUNQY_SECRET_KEY": "a-secret-key-that-somebody-made-with-a-good-random-generator-0123456789",
    "RUNQY_API_KEY": "an-admin-key-of-good-length",
    "RUNQY_WORKER_API_KEY": "a-worker-key-of-good-length",
    "RUNQY_ALLOWED_HOSTS": "runqy.example.com",
    "RUNQY_CSRF_ORIGINS": "https://runqy.example.com",
    "RUNQY_HTTPS": "true",
    "REDIS_URL": "redis://:secret@redis.example.com",
    "RUNQY_WORKER_REDIS_URL": "redis://worker:other@redis.example.com",
    "DATABASE_URL": "postgresql://runqy:secret@db.example.com/runqy",
}


def check(home: Path, variables: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    """Run Django's checks with these variables only."""
    environment = {"PATH": os.environ["PATH"], "RUNQY_HOME": str(home)} | variables
    return subprocess.run(
        [sys.executable, str(ROOT / "manage.py"), "check", *options], env=environment, capture_output=True, text=True
    )


def test_production_settings_pass_the_deployment_check(tmp_path: Path) -> None:
    finished = check(tmp_path, PRODUCTION, "--deploy", "--fail-level", "WARNING")

    assert finished.returncode == 0, finished.stderr
    assert "no issues" in finished.stdout


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"RUNQY_SECRET_KEY": ""}, "runqy.E002"),
        ({"RUNQY_API_KEY": "short"}, "runqy.W003"),
        ({"REDIS_URL": ""}, "runqy.W004"),
        ({"RUNQY_WORKER_REDIS_URL": ""}, "runqy.E005"),
        ({"RUNQY_WORKER_REDIS_URL": "rediss://default:secret@10.0.0.1:6380"}, "runqy.E005"),
        ({"RUNQY_HTTPS": "false"}, "security.W008"),
        ({"DEBUG": "true"}, "security.W018"),
    ],
)
def test_the_deployment_check_finds_what_is_unwise(tmp_path: Path, changes: dict[str, str], name: str) -> None:
    finished = check(tmp_path, PRODUCTION | changes, "--deploy", "--fail-level", "WARNING")

    assert finished.returncode != 0
    assert name in finished.stderr


def test_workers_that_all_have_a_user_of_their_own_need_no_other_credentials(tmp_path: Path) -> None:
    finished = check(tmp_path, PRODUCTION | {"RUNQY_WORKER_REDIS_URL": "", "RUNQY_WORKER_ACL": "required"}, "--deploy")

    assert finished.returncode == 0, finished.stderr


def test_one_key_for_two_roles_is_an_error_everywhere(tmp_path: Path) -> None:
    finished = check(tmp_path, {"RUNQY_API_KEY": "the-same", "RUNQY_WORKER_API_KEY": "the-same"})

    assert finished.returncode != 0
    assert "runqy.E001" in finished.stderr


def test_an_empty_environment_passes_the_ordinary_check(tmp_path: Path) -> None:
    finished = check(tmp_path, {}, "--fail-level", "WARNING")

    assert finished.returncode == 0, finished.stderr
