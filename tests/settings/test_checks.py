"""What `manage.py check` reports about settings."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PRODUCTION = {
    "RUNQY_SECRET_KEY": "a-secret-key-that-was-made-with-a-good-random-generator-0123456789abcde",
    "RUNQY_API_KEY": "an-admin-key-of-good-length-0123456789",
    "RUNQY_WORKER_API_KEY": "a-worker-key-of-good-length-0123456789",
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
    ("changes", "names"),
    [
        (
            {
                "RUNQY_SECRET_KEY": "",
                "RUNQY_API_KEY": "31-characters-can-be-guessed-ab",
                "RUNQY_WORKER_REDIS_URL": "",
                "RUNQY_HTTPS": "false",
            },
            {"runqy.E002", "runqy.E003", "runqy.E005", "security.W008"},
        ),
        (
            {"RUNQY_WORKER_REDIS_URL": "rediss://default:secret@10.0.0.1:6380"},
            {"runqy.E005"},
        ),
        ({"REDIS_URL": ""}, {"runqy.W004", "runqy.E007"}),
        ({"REDIS_URL": "redis://redis.example.com", "RUNQY_WORKER_ACL": "required"}, {"runqy.E007"}),
    ],
)
def test_the_deployment_check_finds_unsafe_settings(tmp_path: Path, changes: dict[str, str], names: set[str]) -> None:
    finished = check(tmp_path, PRODUCTION | changes, "--deploy", "--fail-level", "WARNING")

    assert finished.returncode != 0
    assert set(re.findall(r"\b(?:runqy\.[EW]|security\.W)[0-9]+", finished.stderr)) >= names


def test_workers_that_all_have_a_user_of_their_own_need_no_other_credentials(tmp_path: Path) -> None:
    finished = check(tmp_path, PRODUCTION | {"RUNQY_WORKER_REDIS_URL": "", "RUNQY_WORKER_ACL": "required"}, "--deploy")

    assert finished.returncode == 0, finished.stderr


def test_a_worker_key_of_one_queue_that_allows_shared_credentials_is_an_error(tmp_path: Path) -> None:
    variables = PRODUCTION | {"DATABASE_URL": "", "SQLITE_DB_PATH": str(tmp_path / "db")}
    environment = {"PATH": os.environ["PATH"], "RUNQY_HOME": str(tmp_path)} | variables
    row = "role='worker', queues=['mail'], allow_shared_redis=True"
    create = f"from runqy.accounts.models import ApiKey; ApiKey.objects.create({row})"
    commands = ("migrate", "accounts", "--", "shell", "-c", create)
    words = [sys.executable, "-m", "runqy.manage", *commands]
    subprocess.run(words, env=environment, cwd=ROOT, capture_output=True, check=True)

    finished = check(tmp_path, variables, "--deploy", "--database", "default")
    required = check(tmp_path, variables | {"RUNQY_WORKER_ACL": "required"}, "--deploy", "--database", "default")

    assert (finished.returncode != 0, "runqy.E006" in finished.stderr) == (True, True)
    assert "runqy.E006" not in required.stderr


def test_one_key_for_two_roles_is_an_error_everywhere(tmp_path: Path) -> None:
    finished = check(tmp_path, {"RUNQY_API_KEY": "the-same", "RUNQY_WORKER_API_KEY": "the-same"})

    assert finished.returncode != 0
    assert "runqy.E001" in finished.stderr


def test_an_empty_environment_passes_the_ordinary_check(tmp_path: Path) -> None:
    finished = check(tmp_path, {}, "--fail-level", "WARNING")

    assert finished.returncode == 0, finished.stderr


def test_each_start_warns_of_keys_that_can_be_guessed(tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "RUNQY_HOME": str(tmp_path), "RUNQY_WORKER_API_KEY": "short"}
    environment |= {"RUNQY_API_KEY": "32-characters-are-long-enough-ab"}

    started = subprocess.run(
        [sys.executable, "-c", "import runqy.wsgi"],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )

    warnings = [line for line in (started.stderr + started.stdout).splitlines() if "api_key_too_short" in line]
    assert len(warnings) == 1
    assert "RUNQY_WORKER_API_KEY" in warnings[0]
    assert "short" not in warnings[0].replace("too_short", "").replace("shortest", "")
