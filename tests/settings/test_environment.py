"""What becomes of each variable, in a process of its own: settings are read once."""

import json
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SHOW = """
import json
from runqy import settings
names = [name for name in dir(settings) if name.isupper()]
print(json.dumps({name: getattr(settings, name) for name in names}, default=repr))
"""


def read_settings(home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Read the settings in a process that has only these variables."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "RUNQY_HOME": str(home)} | variables
    return subprocess.run(
        [sys.executable, "-c", SHOW], env=environment, cwd=home, capture_output=True, text=True, check=False
    )


def settings_with(home: Path, **variables: str) -> dict[str, object]:
    """Return the settings that the variables make."""
    finished = read_settings(home, **variables)
    assert finished.returncode == 0, finished.stderr
    result: dict[str, object] = json.loads(finished.stdout)
    return result


def test_an_empty_environment_is_a_server_on_this_machine(tmp_path: Path) -> None:
    settings = settings_with(tmp_path)

    database = settings["DATABASES"]["default"]
    assert database["ENGINE"].endswith("sqlite3")
    assert database["NAME"] == str(tmp_path / "db.sqlite3")
    assert database["OPTIONS"]["transaction_mode"] == "IMMEDIATE"
    assert (settings["PORT"], settings["RUNQY_HTTPS"], settings["RUNQY_DEFAULT_MAX_RETRY"]) == (3000, False, 3)
    assert settings["REDIS_TARGET"] == "<RedisTarget single 127.0.0.1:6379/0>"
    assert settings["REDIS_IS_CONFIGURED"] is False


def test_variables_change_what_they_name(tmp_path: Path) -> None:
    settings = settings_with(
        tmp_path,
        PORT="8080",
        REDIS_HOST="redis.example.com",
        REDIS_PORT="6380",
        REDIS_PASSWORD="hunter2",
        RUNQY_DEFAULT_ACTIVE_TIMEOUT="1h30m",
        RUNQY_DEFAULT_TTL_COMPLETED="60",
        RUNQY_MAX_BODY_SIZE="2GiB",
        RUNQY_RATE_LIMIT="600/m",
        RUNQY_AUTH_FAILURE_LIMIT="off",
        RUNQY_ALLOWED_HOSTS="runqy.example.com, 10.0.0.1",
        RUNQY_SUBQUEUE_SEPARATOR=".",
        SQLITE_DB_PATH="elsewhere.db",
    )

    assert settings["PORT"] == 8080
    assert settings["REDIS_TARGET"] == "<RedisTarget single redis.example.com:6380/0>"
    assert settings["RUNQY_DEFAULT_ACTIVE_TIMEOUT_S"] == 5400
    assert settings["RUNQY_DEFAULT_TTL_COMPLETED_S"] == 60
    assert settings["RUNQY_MAX_BODY_SIZE"] == 2 << 30
    assert (settings["RUNQY_RATE_LIMIT"], settings["RUNQY_AUTH_FAILURE_LIMIT"]) == (
        "Rate(limit=600, window_s=60)",
        None,
    )
    assert settings["ALLOWED_HOSTS"] == ["runqy.example.com", "10.0.0.1"]
    assert settings["DATABASES"]["default"]["NAME"] == str(tmp_path / "elsewhere.db")


@pytest.mark.parametrize(
    ("variables", "starttls", "tls"),
    [
        ({}, False, False),
        ({"EMAIL_USE_TLS": "true"}, True, False),
        ({"EMAIL_PORT": "465"}, False, True),
        ({"EMAIL_PORT": "465", "EMAIL_USE_TLS": "true"}, False, True),
    ],
)
def test_mail_is_encrypted_from_the_first_byte_on_port_465(
    tmp_path: Path, variables: dict[str, str], starttls: bool, tls: bool
) -> None:
    settings = settings_with(tmp_path, **variables)

    assert (settings["EMAIL_USE_TLS"], settings["EMAIL_USE_SSL"]) == (starttls, tls)


def test_database_variables_mean_postgresql(tmp_path: Path) -> None:
    settings = settings_with(
        tmp_path,
        DATABASE_HOST="db",
        DATABASE_USER="u",
        DATABASE_PASSWORD="p",
        DATABASE_DBNAME="tasks",
        DATABASE_SSL="true",
    )

    database = settings["DATABASES"]["default"]
    assert database["ENGINE"].endswith("postgresql")
    assert (database["HOST"], database["PORT"], database["NAME"]) == ("db", 5432, "tasks")
    assert database["OPTIONS"]["sslmode"] == "require"


def test_a_variable_is_also_read_from_the_file_that_its_sibling_names(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("  key-in-a-file\n")

    settings = settings_with(tmp_path, RUNQY_API_KEY_FILE=str(tmp_path / "key"))

    assert settings["RUNQY_API_KEY"] == "key-in-a-file"


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"RUNQY_HTTPS": "flase"}, "RUNQY_HTTPS: 'flase' is neither true nor false."),
        ({"PORT": "0"}, "PORT: '0' is not a whole number from 1 to 65535."),
        ({"PORT": "three"}, "PORT: 'three' is not a whole number from 1 to 65535."),
        ({"RUNQY_MAX_BODY_SIZE": "big"}, "RUNQY_MAX_BODY_SIZE: 'big' is not a size such as 52428800 or 50MiB."),
        ({"RUNQY_DEFAULT_TTL_ARCHIVED": "3 days"}, "RUNQY_DEFAULT_TTL_ARCHIVED: '3 days' is not a duration"),
        ({"RUNQY_DEFAULT_ACTIVE_TIMEOUT": "0"}, "RUNQY_DEFAULT_ACTIVE_TIMEOUT: '0' is not from 1 s to ten years."),
        ({"RUNQY_DEFAULT_TTL_COMPLETED": "9999999h"}, "RUNQY_DEFAULT_TTL_COMPLETED: '9999999h' is not from 0 s to ten"),
        ({"RUNQY_LEASE": "0s"}, "RUNQY_LEASE: '0s' is not from 1 s to ten years."),
        ({"RUNQY_DEFAULT_MAX_RETRY": "10001"}, "RUNQY_DEFAULT_MAX_RETRY: '10001' is not a whole number"),
        (
            {"RUNQY_RATE_LIMIT": "10"},
            "RUNQY_RATE_LIMIT: '10' is not a rate such as 50/s, 600/m or 10000/h, and not off.",
        ),
        ({"RUNQY_RATE_LIMIT": "0/s"}, "RUNQY_RATE_LIMIT: '0/s' is not a rate"),
        ({"RUNQY_SUBQUEUE_SEPARATOR": "-"}, "RUNQY_SUBQUEUE_SEPARATOR: Must be one of _, .."),
        ({"DATABASE_SSL": "on"}, "DATABASE_SSL: Must be one of true, false, disable, allow, prefer, require"),
        ({"REDIS_URL": "http://x"}, "REDIS_URL: the URL must begin with redis://"),
        ({"DATABASE_URL": "mysql://x"}, "DATABASE_URL: the URL must begin with postgresql:// or sqlite:///."),
        ({"RUNQY_TRUSTED_PROXIES": "proxy"}, "RUNQY_TRUSTED_PROXIES: 'proxy' does not appear to be"),
        ({"RUNQY_API_KEY_FILE": "/nowhere"}, "RUNQY_API_KEY"),
        ({"RUNQY_API_KEY_FILE": "/dev/null", "RUNQY_API_KEY": "x"}, "RUNQY_API_KEY and RUNQY_API_KEY_FILE are both"),
        ({"RUNQY_VAULT_MASTER_KEY": "c2hvcnQ="}, "RUNQY_VAULT_MASTER_KEY: key 1 is not 32 bytes in base64."),
    ],
)
def test_an_invalid_value_ends_the_start_with_an_error(
    tmp_path: Path, variables: dict[str, str], sentence: str
) -> None:
    finished = read_settings(tmp_path, **variables)

    assert finished.returncode != 0
    assert finished.stderr.startswith(sentence)
    assert len(finished.stderr.splitlines()) == 1


def test_processes_that_start_at_once_agree_on_a_generated_key(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()

    with ThreadPoolExecutor(4) as pool:
        keys = {str(s["SECRET_KEY"]) for s in pool.map(lambda _: settings_with(home), range(4))}

    assert len(keys) == 1
    assert len(keys.pop()) > 50
    assert stat.S_IMODE((home / "secret_key").stat().st_mode) == 0o600
    assert [path.name for path in home.iterdir()] == ["secret_key"]


def test_a_missing_home_is_made_for_its_owner_only(tmp_path: Path) -> None:
    home = tmp_path / "deep" / "home"

    settings_with(tmp_path, RUNQY_HOME=str(home))

    assert stat.S_IMODE(home.stat().st_mode) == 0o700


def test_a_given_secret_key_leaves_no_file(tmp_path: Path) -> None:
    settings = settings_with(tmp_path, RUNQY_SECRET_KEY="given")

    assert settings["SECRET_KEY"] == "given"
    assert list(tmp_path.iterdir()) == []
