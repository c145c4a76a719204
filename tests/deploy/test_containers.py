"""The files for containers agree with the code. `.ci/release-check image` builds and runs the image."""

import http.server
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import redis
from ruamel.yaml import YAML

from tests.deploy.declared import SERVER_SETTINGS, WORKER_SETTINGS
from tests.docs.blocks import read_titled
from tests.support.servers import ValkeyServer, free_port

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text()
COMPOSE, HTTPS = ROOT / "compose.yaml", ROOT / "deploy/compose.https.yaml"


def services(path: Path) -> dict[str, Any]:
    yaml = YAML(typ="safe", pure=True)
    yaml.constructor.add_constructor("!reset", lambda *_: None)
    found: dict[str, Any] = yaml.load(path.read_text())["services"]
    return found


@pytest.mark.parametrize("path", [COMPOSE, HTTPS])
def test_every_variable_of_our_services_is_a_setting(path: Path) -> None:
    for name, known in (("server", SERVER_SETTINGS), ("worker", WORKER_SETTINGS), ("setup", SERVER_SETTINGS)):
        variables = services(path).get(name, {}).get("environment", {})
        assert {variable.removesuffix("_FILE") for variable in variables} <= known, name


def test_services_are_built_from_targets_that_exist_and_run_commands_that_exist() -> None:
    targets = re.findall(r"^FROM \S+ AS (\w+)$", DOCKERFILE, re.MULTILINE)
    commands = [json.loads(words) for words in re.findall(r"^CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)]
    commands += [service["command"] for name, service in services(COMPOSE).items() if name == "server"]

    assert {service["build"]["target"] for service in services(COMPOSE).values() if "build" in service} <= {*targets}
    assert targets[-1] == "server"  # what is built when no target is named
    assert len(commands) == 3
    for program, *words in commands:
        done = subprocess.run([Path(sys.executable).with_name(program), *words, "--help"], capture_output=True)
        assert done.returncode == 0, (program, done.stderr)


def test_every_base_is_pinned_by_a_digest_that_an_argument_can_replace() -> None:
    defaults = dict(re.findall(r"^ARG (\w+)=(\S+)$", DOCKERFILE, re.MULTILINE))
    bases = {base for base in re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE) if base.startswith("$")}

    assert bases == {"${PYTHON_BASE}"}
    assert defaults["PYTHON_BASE"] == "${PYTHON_IMAGE}@${PYTHON_DIGEST}"
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", defaults["PYTHON_DIGEST"])


def test_every_other_image_can_be_pinned_by_a_variable() -> None:
    images = [
        service["image"] for file in (COMPOSE, HTTPS) for service in services(file).values() if "image" in service
    ]
    others = {image for image in images if "RUNQY_" not in image}

    assert {image.partition(":-")[0] for image in others} == {"${POSTGRES_IMAGE", "${VALKEY_IMAGE", "${CADDY_IMAGE"}
    assert any(re.search(r":17-trixie@sha256:[0-9a-f]{64}\}$", image) for image in others)


def test_the_key_of_the_worker_is_limited_to_the_queues_of_the_examples() -> None:
    limit = services(COMPOSE)["server"]["environment"]["RUNQY_WORKER_API_KEY_QUEUES"]
    yaml = YAML(typ="safe", pure=True)
    files = [yaml.load(path.read_text()) for path in sorted((ROOT / "examples").glob("*/queue.yaml"))]

    assert limit == "${RUNQY_QUEUES:-" + ",".join(name for file in files for name in file["queues"]) + "}"


def test_containers_have_no_capabilities_but_those_that_they_need_and_write_to_volumes_only() -> None:
    found = {name: one for path in (COMPOSE, HTTPS) for name, one in services(path).items() if "image" in one}

    needed = {"setup": ["CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID"], "worker": ["SETGID", "SETUID"]}
    assert {name: one.get("cap_add", []) for name, one in found.items() if one.get("cap_drop") == ["ALL"]} == {
        "server": [],
        "valkey": [],
        "caddy": ["NET_BIND_SERVICE"],
        **needed,
    }
    assert {name for name, one in found.items() if not one.get("read_only")} == {"postgres"}


@pytest.mark.parametrize(("status", "is_healthy"), [(200, True), (503, False)])
def test_health_check_asks_whether_the_server_is_alive(status: int, is_healthy: bool) -> None:
    paths = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        done = run_health_check(server.server_port)
        server.shutdown()

    assert paths == ["/livez"]
    assert (done.returncode == 0) is is_healthy


def test_health_check_fails_without_a_server() -> None:
    assert run_health_check(free_port()).returncode != 0


def test_caddy_reaches_the_server_as_a_trusted_proxy_and_keeps_no_connection_for_longer_than_it_drains() -> None:
    caddyfile, server = (ROOT / "deploy/Caddyfile").read_text(), services(HTTPS)["server"]
    upstream = re.search(r"reverse_proxy (\w+):3000", caddyfile)
    keepalive = re.search(r"keepalive (\d+)s", caddyfile)

    assert upstream
    assert keepalive
    # A name in another network would give Caddy an address that is not trusted.
    assert [
        name for name, options in server["networks"].items() if upstream[1] in (options or {}).get("aliases", [])
    ] == ["proxy"]
    assert int(keepalive[1]) < server["environment"]["RUNQY_DRAIN_S"]


def run_health_check(port: int) -> "subprocess.CompletedProcess[bytes]":
    words = json.loads(
        DOCKERFILE.partition("HEALTHCHECK ")[2].partition("CMD ")[2].partition("]\n")[0].replace("\\\n", "") + "]"
    )
    return subprocess.run(words, env={**os.environ, "PORT": str(port)}, capture_output=True, check=False)


def make_volumes(root: Path) -> dict[str, str]:
    """Run the service `setup`. Return the text of each file that it made."""
    command = [sys.executable, ROOT / "deploy/compose_setup.py", root, str(os.getuid())]
    # As in the container, where nothing but this is set.
    env = {
        "PATH": os.environ["PATH"],
        "RUNQY_HOME": str(root / "home"),
        "RUNQY_SECRET_KEY_FILE": str(root / "server/secret_key"),
    }
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""
    return {
        str(path.relative_to(root)): path.read_text()
        for name in ("server", "worker", "postgres", "valkey", "examples/queues")
        for path in (root / name).iterdir()
    }


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    for name in ("server", "worker", "postgres", "valkey", "examples"):
        (tmp_path / name).mkdir()
    return tmp_path


def test_secrets_are_generated_once_and_each_service_gets_its_own(volumes: Path) -> None:
    made = make_volumes(volumes)

    assert make_volumes(volumes) == made
    server = services(COMPOSE)["server"]
    files = [path.removeprefix("/data/") for path in server["environment"].values() if path.startswith("/data/")]
    assert {"api_key", "secret_key", "redis_url"} < {*files}
    assert all(made[f"server/{name}"].strip() for name in files)
    assert made["worker/api_key"] == made["server/worker_api_key"]
    assert made["postgres/password"] == made["server/database_password"]
    assert {name.partition("/")[0] for name, text in made.items() if made["server/api_key"] in text} == {"server"}
    modes = {path.stat().st_mode & 0o777 for path in volumes.rglob("*") if path.is_file() and path.suffix != ".conf"}
    assert modes <= {0o600, 0o400, 0o700}  # git's hooks are programs


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to other users")
def test_only_root_can_read_the_key_of_the_worker(volumes: Path) -> None:
    (volumes / "worker/api_key").touch()
    for path in (volumes / "worker", volumes / "worker/api_key"):  # as an earlier release left them
        os.chown(path, 10001, 10001)

    make_volumes(volumes)

    assert {path.stat().st_uid for path in (volumes / "worker", volumes / "worker/api_key")} == {0}
    assert {path.stat().st_mode & 0o77 for path in (volumes / "worker", volumes / "worker/api_key")} == {0}


@pytest.mark.parametrize("source", ["compose.yaml", "docs/how-to/redis.md"])
def test_the_append_only_file_may_be_read_as_the_user_that_is_off(volumes: Path, source: str) -> None:
    """Redis 7 and Valkey 8 lose the transactions in it that the user `default` may not run."""
    config = (
        make_volumes(volumes)["valkey/valkey.conf"] if source == "compose.yaml" else read_titled(source)["redis.conf"]
    )
    server = ValkeyServer(
        config=config.replace("bind 127.0.0.1 10.0.0.1", "").replace("user runqy on", "user runqy on >x")
    )
    server.start()

    try:
        client = redis.Redis(port=server.port, username="runqy", password="x")
        assert client.acl_dryrun("default", "SET", "asynq:{greeter}:t:1", "task") == b"OK"
        with pytest.raises(redis.exceptions.AuthenticationError):
            server.client().ping()
    finally:
        server.stop()


def test_valkey_admits_the_server_and_lets_the_health_check_do_nothing_else(volumes: Path) -> None:
    made = make_volumes(volumes)
    server = ValkeyServer(config=made["valkey/valkey.conf"]).start()
    url = made["server/redis_url"].strip().replace("valkey:6379", f"127.0.0.1:{server.port}")

    try:
        assert redis.Redis.from_url(url).config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        health = redis.Redis(port=server.port, username="health", password="-")
        assert health.ping()
        with pytest.raises(redis.exceptions.NoPermissionError):
            health.get("asynq:queues")
        with pytest.raises(redis.exceptions.AuthenticationError):
            server.client().ping()
    finally:
        server.stop()


def test_a_worker_that_is_given_two_keys_gets_both_and_refuses_them(tmp_path: Path) -> None:
    for name, script in {"tini": 'shift; exec "$@"', "runqy-worker": "env"}.items():
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    keys = {"RUNQY_API_KEY": "one", "RUNQY_API_KEY_FILE": "/run/secrets/two"}

    done = subprocess.run(
        [ROOT / "deploy/worker-entrypoint", "runqy-worker"],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", **keys},
        capture_output=True,
        text=True,
    )

    assert keys.items() <= dict(line.split("=", 1) for line in done.stdout.splitlines()).items(), done.stderr
