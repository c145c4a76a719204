"""Credentials of a package index, which the worker inherits and the installation of requirements needs."""

from pathlib import Path

import pytest

from runqy.broker.broker import Broker
from tests.workers.conftest import StartWorker
from tests.workers.fake_server import FakeServer
from tests.workers.processes import wait_for_record
from tests.workers.repositories import Repository
from workers.runtime.redaction import environment_secrets

BACKEND = """
import os, sys
from urllib.parse import unquote

def build_wheel(*_, **__):
    for name in ("PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_OURS_PASSWORD", "UV_CACHE_DIR", "PIP_CACHE_DIR"):
        print(name, os.environ[name], unquote(os.environ[name]), file=sys.stderr)
    raise SystemExit("seen by the build")
"""


@pytest.fixture
def built(repository: Repository) -> Repository:
    """Return a repository with a package whose build prints what it sees of the environment."""
    project = '[project]\nname = "ours"\nversion = "1"\n'
    system = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    repository.commit(
        {"requirements.txt": "./ours\n", "ours/pyproject.toml": project + system, "ours/backend.py": BACKEND}
    )
    return repository


def test_credentials_that_a_build_prints_are_in_no_reason_and_no_log(
    built: Repository, server: FakeServer, single_broker: Broker, start_worker: StartWorker, tmp_path: Path
) -> None:
    server.response["deployment"]["git_url"] = built.url
    worker = start_worker(
        PIP_INDEX_URL="https://reader:planted%2Dindex-1@127.0.0.1:1/simple",
        UV_INDEX_OURS_PASSWORD="planted-index-2",
        RUNQY_DEPLOYMENT_DIR=str(tmp_path / "deployments"),
    )

    reason = wait_for_record(single_broker, "start_failed").reason
    worker.wait_for("deployment_failed")

    assert "seen by the build" in reason
    for text in (reason, worker.log.read_text()):
        assert "PIP_INDEX_URL https://****@127.0.0.1:1/simple https://****@127.0.0.1:1/simple" in text
        assert "UV_INDEX_OURS_PASSWORD **** ****" in text
        assert "planted" not in text
    for name in ("UV_CACHE_DIR", "PIP_CACHE_DIR"):
        assert f"{name} {tmp_path}/deployments/mail/cache" in reason


def test_user_names_are_secrets_where_there_is_no_password() -> None:
    environ = {"UV_INDEX": "a=https://token-1@h/simple b=https://token-2:@h/simple", "https_proxy": "http://u:p@h"}

    assert set(environment_secrets(environ)) == {"token-1", "token-2", "token-2:"}
