"""Each process of a stack gets the environment it needs, and no secret that it does not."""

import base64

import pytest

from runqy.stack import instance as instance_module
from runqy.stack.instance import mark_as_started, open_instance, server_environment, worker_environment

SECRETS = (
    "RUNQY_SECRET_KEY",
    "RUNQY_METRICS_TOKEN",
    "RUNQY_VAULT_MASTER_KEY",
    "RUNQY_CLIENT_API_KEY",
    "REDIS_PASSWORD",
    "DATABASE_PASSWORD",
)


@pytest.fixture
def instance(tmp_path, monkeypatch):
    monkeypatch.setattr(instance_module.settings, "RUNQY_HOME", tmp_path / "home")
    monkeypatch.setattr(instance_module.settings, "RUNQY_WORKER_API_KEY", "")
    for name in ("RUNQY_API_KEY", "RUNQY_WORKER_API_KEY", "RUNQY_VAULT_MASTER_KEY", "RUNQY_ALLOWED_HOSTS"):
        monkeypatch.delenv(name, raising=False)
    return open_instance()


def test_secrets_are_generated_once(instance):
    names = ("api_key", "worker_api_key", "metrics_token", "admin_password", "vault_master_key")
    before = {name: (instance.home / name).read_text() for name in names}

    open_instance()

    assert {name: (instance.home / name).read_text() for name in names} == before
    assert len(set(before.values())) == len(names)
    assert len(base64.b64decode(before["vault_master_key"])) == 32


def test_start_is_the_first_until_the_secrets_were_shown(instance):
    after_a_failure = open_instance()

    mark_as_started(after_a_failure)

    assert after_a_failure.is_first_start
    assert not open_instance().is_first_start


def test_server_gets_generated_secrets_as_files(instance):
    env = server_environment(instance)

    assert env["RUNQY_API_KEY_FILE"] == str(instance.home / "api_key")
    assert env["RUNQY_VAULT_MASTER_KEY_FILE"] == str(instance.home / "vault_master_key")
    assert "RUNQY_API_KEY" not in env


def test_key_of_the_environment_wins(instance, monkeypatch):
    monkeypatch.setenv("RUNQY_API_KEY", "mine")

    env = server_environment(instance)

    assert env["RUNQY_API_KEY"] == "mine"
    assert "RUNQY_API_KEY_FILE" not in env


def test_variable_and_its_file_variable_are_never_both_set(instance, monkeypatch):
    monkeypatch.setenv("REDIS_URL", "redis://elsewhere")
    monkeypatch.setenv("QUEUE_WORKERS_DIR_FILE", "/somewhere")

    env = server_environment(instance, REDIS_URL_FILE="/url", QUEUE_WORKERS_DIR="/queues")

    assert env["REDIS_URL_FILE"] == "/url"
    assert "REDIS_URL" not in env
    assert "QUEUE_WORKERS_DIR_FILE" not in env


def test_worker_of_the_stack_is_always_an_allowed_host(instance, monkeypatch):
    monkeypatch.setenv("RUNQY_ALLOWED_HOSTS", "runqy.example.com")

    assert server_environment(instance)["RUNQY_ALLOWED_HOSTS"] == "runqy.example.com,localhost,127.0.0.1"


def test_worker_gets_its_key_and_no_other_secret(instance, monkeypatch):
    for name in (*SECRETS, "RUNQY_API_KEY", "DATABASE_URL", "REDIS_URL"):
        monkeypatch.setenv(name, f"secret-{name}")
        monkeypatch.setenv(f"{name}_FILE", f"secret-{name}")

    env = worker_environment(instance)

    assert env["RUNQY_API_KEY"] == (instance.home / "worker_api_key").read_text().strip()
    assert env["RUNQY_QUEUES"] == "*"
    assert [name for name, value in env.items() if value.startswith("secret-")] == []


def test_settings_of_the_worker_are_passed_on(instance, monkeypatch):
    monkeypatch.setenv("RUNQY_CONCURRENCY", "4")
    monkeypatch.setenv("RUNQY_QUEUES", "mail")

    env = worker_environment(instance)

    assert (env["RUNQY_CONCURRENCY"], env["RUNQY_QUEUES"]) == ("4", "mail")
